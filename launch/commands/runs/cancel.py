"""Stop a run: it finishes its step, saves a checkpoint and exits, and can be resumed later.

    dist-train cancel runs/digits           its Slurm jobs, or its processes on this machine
    dist-train cancel runs/digits --wait    wait until it has stopped
    dist-train cancel runs/lr.sweep         all trials of a sweep

Slurm jobs are stopped by scancel, processes on this machine by SIGTERM.
"""

import argparse

from launch.runs import cancel, snapshot
from launch.runs.find import find_directory
from launch.runs.format import format_run
from launch.sweeps import sweep_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN|JOB|SWEEP", help="directory of a run or of a sweep, e.g. runs/digits; or a job, e.g. 12"
    )
    parser.add_argument("--wait", action="store_true", help="wait until it has stopped")


def run(options: argparse.Namespace) -> int:
    path = find_directory(options.run)
    found = cancel.cancel_sweep(path) if sweep_dir.is_sweep(path) else [snapshot.read_run(path)]
    for each in found:
        cancel.cancel_run(each)
    for each in found if options.wait else ():
        print(format_run(cancel.wait_until_stopped(each)))
    return 0
