"""Train what a file of settings says; the same command goes on where an earlier start of the run was stopped.

    dist-train train configs/digits.yaml                              all GPUs, or one process where there is none
    dist-train train configs/digits.yaml --nproc 2 --max-restarts 3 optim.lr=0.1

On several machines, start `torchrun --nnodes=... --rdzv-endpoint=... -m dist_train CONFIG` on each.
"""

import argparse
import os
import signal
from typing import TYPE_CHECKING, NoReturn

from dist_train.system.stop_signals import SIGNALS
from launch.arguments import AUTO, number_from
from launch.local.training_command import build_command, build_environment, find_gpu_files, max_ranks, resolve_ranks

if TYPE_CHECKING:
    pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="file of settings, e.g. configs/digits.yaml")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that override the file's"
    )
    parser.add_argument(
        "--nproc",
        type=number_from(1, AUTO, most=max_ranks()),
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
        ranks = _count_ranks(options)
        settings = [options.config, *options.overrides]
        _exec(build_command(settings, ranks, options.max_restarts), build_environment(ranks, os.environ))
    from dist_train.settings.loader import load_config, to_yaml

    print(to_yaml(load_config(options.config, options.overrides)), end="")
    return 0


def _count_ranks(options: argparse.Namespace) -> int | None:
    """What `resolved` says; the settings are read only where it depends on them, because reading takes its time."""
    if isinstance(options.nproc, int):
        return options.nproc
    if not find_gpu_files():
        return 1
    from dist_train.settings.loader import load_config

    return resolve_ranks(options.nproc, load_config(options.config, options.overrides).distributed, os.environ)


def _exec(command: list[str], environ: dict[str, str]) -> NoReturn:
    """Replace this process. A signal between here and the handlers of what starts now waits for them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.execve(command[0], command, environ)  # noqa: S606 (there is no shell, and the program is this Python)
