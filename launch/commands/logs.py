"""What a run printed, or the log of one of its ranks.

    dist-train logs runs/digits             what its job or rank 0 has printed
    dist-train logs runs/digits -f          and what it prints from now on, until it has ended
    dist-train logs runs/digits --rank 1    how rank 1 began, its lines, and how it left

`-f` waits for a job that is queued, and goes on when it is queued again. A rank's log lies on its own machine.
"""

import argparse

from launch.arguments import number_from
from launch.runs import output, snapshot
from launch.runs.find import find_directory

FOLLOWED = 20  # lines that are shown before those that come


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN|JOB", help="directory of a run, e.g. runs/digits; or a job such as 12")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended, or Ctrl-C")
    parser.add_argument("--rank", type=number_from(0), metavar="R", help="the log of this rank")
    parser.add_argument(
        "--lines", type=number_from(0), metavar="N", help=f"the last N lines; default: all, with -f {FOLLOWED}"
    )


def run(options: argparse.Namespace) -> int:
    found = snapshot.read_run(find_directory(options.run))
    if options.follow:
        output.follow(found, options.rank, FOLLOWED if options.lines is None else options.lines)
        return 0
    path = output.find_output(found, options.rank)
    if not path.is_file():
        raise output.build_missing_error(found, options.rank)
    position = 0 if options.lines is None else output.find_tail(path, options.lines)
    output.copy_from(path, position)
    return 0
