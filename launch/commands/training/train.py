"""Train on this machine. The same command resumes a run that was stopped.

    dist-train train configs/digits.yaml                              on all GPUs, or one process on the CPU
    dist-train train configs/digits.yaml --nproc 2 --max-restarts 3 optim.lr=0.1

On several machines, run torchrun on each; N is the number of the machine, HOST the machine with number 0:

    torchrun --nnodes=2 --node-rank=N --master-addr=HOST --master-port=PORT --nproc-per-node=4 -m dist_train CONFIG
"""

import argparse
import os
import signal
from typing import NoReturn

from dist_train.system.stop_signals import SIGNALS
from launch.arguments import AUTO, add_config_arguments, number_from
from launch.local.training_command import build_command, build_environment, find_gpu_files, max_ranks, resolve_ranks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--nproc",
        type=number_from(1, AUTO, most=max_ranks()),
        default=AUTO,
        metavar="N|auto",
        help="number of ranks; auto (default): one per GPU, or one process on the CPU",
    )
    parser.add_argument(
        "--max-restarts",
        type=number_from(0),
        default=0,
        metavar="K",
        help="restarts from the newest checkpoint after a rank is killed or fails; default 0",
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings as YAML and exit")


def run(options: argparse.Namespace) -> int:
    """Replace this process by the one that trains, or by the agent that starts ranks; it checks the settings."""
    if not options.print_config:
        ranks = _count_ranks(options)
        settings = [options.config, *options.overrides]
        _exec(build_command(settings, ranks, options.max_restarts), build_environment(ranks, os.environ))
    from dist_train.settings.loader import load_config, to_yaml

    print(to_yaml(load_config(options.config, options.overrides)), end="")
    return 0


def _count_ranks(options: argparse.Namespace) -> int | None:
    """Return `resolve_ranks`, but load the settings only where the answer depends on them: that takes time."""
    if isinstance(options.nproc, int):
        return options.nproc
    if not find_gpu_files():
        return 1
    from dist_train.settings.loader import load_config

    return resolve_ranks(options.nproc, load_config(options.config, options.overrides).distributed, os.environ)


def _exec(command: list[str], environ: dict[str, str]) -> NoReturn:
    """Replace this process; signals stay blocked until the new program has installed its handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.execve(command[0], command, environ)  # noqa: S606 (there is no shell, and the program is this Python)
