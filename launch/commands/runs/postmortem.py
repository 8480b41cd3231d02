"""Explain why a run ended: the first rank that failed, where and why, and the command that resumes it.

    dist-train postmortem runs/digits

Exit code 0 if the run is done, running or resumable after a stop; 1 if it failed or was killed.
"""

import argparse
from pathlib import Path

from launch.sweeps.sweep_dir import refuse_sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="directory of a run, e.g. runs/digits")


def run(options: argparse.Namespace) -> int:
    from dist_train.diagnostics.postmortem import postmortem

    refuse_sweep(options.run)
    text, code = postmortem(options.run)
    print(text)
    return code
