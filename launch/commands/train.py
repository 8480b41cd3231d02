"""Train what a file of settings says; the same command goes on where an earlier start of the run was stopped.

    dist-train train configs/digits.yaml                              all GPUs, or one process where there is none
    dist-train train configs/digits.yaml --nproc 2 --max-restarts 3 optim.lr=0.1

On several machines, start `torchrun --nnodes=... --rdzv-endpoint=... -m dist_train CONFIG` on each.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dist_train.system.stop_signals import SIGNALS
from launch.arguments import AUTO, number_from

if TYPE_CHECKING:
    from dist_train.settings.schema import Distributed

DEVICES = Path("/dev")
MOST_PER_CORE = 16  # ranks; many more would take all memory before the first of them could say anything


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="file of settings, e.g. configs/digits.yaml")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that override the file's"
    )
    parser.add_argument(
        "--nproc",
        type=number_from(1, AUTO, most=most_ranks()),
        default=AUTO,
        metavar="N|auto",
        help="number of ranks; auto (the default): one a GPU of this machine, and one process where there is none",
    )
    parser.add_argument(
        "--max-restarts",
        type=number_from(0),
        default=0,
        metavar="K",
        help="how often the ranks are started anew, from the newest checkpoint, when one is killed or fails; default 0",
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML and exit")


def run(options: argparse.Namespace) -> int:
    """Become the process that trains or the agent that starts ranks; each of them checks the settings first."""
    if not options.print_config:
        ranks = _ranks(options)
        settings = [options.config, *options.overrides]
        _become(command_line(settings, ranks, options.max_restarts), environment(ranks, os.environ))
    from dist_train.settings.loader import load_config, to_yaml

    print(to_yaml(load_config(options.config, options.overrides)), end="")
    return 0


def _ranks(options: argparse.Namespace) -> int | None:
    """What `resolved` says; the settings are read only where it depends on them, because reading takes its time."""
    if isinstance(options.nproc, int):
        return options.nproc
    if not device_files():
        return 1
    from dist_train.settings.loader import load_config

    return resolved(options.nproc, load_config(options.config, options.overrides).distributed, os.environ)


def command_line(settings: Sequence[str], ranks: int | None, max_restarts: int = 0) -> list[str]:
    """What is started.

    Args:
        settings: CONFIG and its key=value.
        ranks: None where only torch can count the GPUs.
        max_restarts: how often lost ranks are started anew in place.
    """
    if ranks == 1 and max_restarts == 0:
        return [sys.executable, "-m", "dist_train", *settings]
    where = ["--nproc", AUTO if ranks is None else str(ranks), "--max-restarts", str(max_restarts)]
    return [sys.executable, "-m", "dist_train.elastic.agent", *where, *settings]


def environment(ranks: int | None, environ: Mapping[str, str], runs: int = 1) -> dict[str, str]:
    """The variables of what is started: OMP_NUM_THREADS, unless it is set, shares the cores between the ranks.

    Args:
        ranks: of one run; None where only torch can count the GPUs.
        environ: variables that it has besides.
        runs: how many go side by side.
    """
    shared = runs * (ranks or len(device_files()) or 1)
    return {"OMP_NUM_THREADS": str(max(1, _cores() // shared)), **environ}


def _become(command: list[str], environ: dict[str, str]) -> NoReturn:
    """Replace this process. A signal between here and the handlers of what starts now waits for them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.execve(command[0], command, environ)  # noqa: S606 (there is no shell, and the program is this Python)


def resolved(nproc: int | str, distributed: "Distributed", environ: Mapping[str, str]) -> int | None:
    """The number of ranks; None: there are GPUs, and torch has to count them."""
    if isinstance(nproc, int):
        return nproc
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and visible.strip() in ("", "-1")
    return 1 if distributed.backend == "gloo" or hidden or not device_files() else None


def device_files() -> list[Path]:
    """What stands for GPUs on this machine: NVIDIA's each has a file, AMD's and those of WSL share one."""
    if not DEVICES.is_dir():
        return []
    return [path for path in DEVICES.iterdir() if re.fullmatch(r"nvidia\d+|kfd|dxg", path.name)]


def most_ranks() -> int:
    """How many ranks may be asked of this machine."""
    return MOST_PER_CORE * _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
