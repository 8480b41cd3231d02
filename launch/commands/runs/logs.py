"""Print the output of a run, or the log of one of its ranks.

    dist-train logs runs/digits             the output of its job, or of rank 0
    dist-train logs runs/digits -f          follow the output until the run ends
    dist-train logs runs/digits --rank 1    the log of rank 1: start, output, end

`-f` waits for a queued job and continues after a requeue. The log of a rank is on the machine of that rank.
"""

import argparse

from launch.arguments import number_from
from launch.runs import output, snapshot
from launch.runs.find import find_directory

FOLLOWED_LINES = 20  # earlier lines that -f prints first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN|JOB", help="directory of a run, e.g. runs/digits; or a job, e.g. 12")
    parser.add_argument("-f", "--follow", action="store_true", help="follow until the run ends, or Ctrl-C")
    parser.add_argument("--rank", type=number_from(0), metavar="R", help="print the log of this rank")
    parser.add_argument(
        "--lines",
        type=number_from(0),
        metavar="N",
        help=f"print only the last N lines; default: all, with -f {FOLLOWED_LINES}",
    )


def run(options: argparse.Namespace) -> int:
    found = snapshot.read_run(find_directory(options.run))
    if options.follow:
        output.follow(found, options.rank, FOLLOWED_LINES if options.lines is None else options.lines)
    else:
        output.print_output(found, options.rank, options.lines)
    return 0
