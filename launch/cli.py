"""The command `dist-train`.

A subcommand is a module of `launch.commands` with `add_arguments(parser)` and `run(options) -> int`, the exit code, and
a line in `COMMANDS`. It is imported when it is asked for, and imports nothing heavy before `run`.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

from dist_train.system.exit import Parser, run_guarded

COMMANDS = {
    "train": "train what a file of settings says, on all GPUs of this machine or on its CPU",
    "submit": "train it as a Slurm job",
    "sweep": "train a grid of settings, here or as a job array",
    "status": "say how runs are doing",
    "logs": "show what a run printed",
    "cancel": "stop a run, which saves before it leaves",
    "drill": "break a run in every way there is, and compare the weights that it ends with",
    "diff": "name the first step at which two runs part, and what differs",
    "postmortem": "say what ended a run",
    "ckpt": "list, verify or remove the checkpoints of a run",
}
EXIT_CODES = """\
exit codes:
  0    done
  1    failure, with a traceback
  2    something that you can mend, with a message
  4    the training became non-finite
  75   stopped from outside (a signal, the time limit); the same command goes on
  130  interrupted twice: ended at once
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dist-train` with the arguments of this process or these; returns the exit code."""
    return run_guarded(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    own, passed_on = _split(given)
    chosen = _build_parser().parse_args(own)
    command = import_module(f"launch.commands.{chosen.command}")
    parser = Parser(
        prog=f"dist-train {chosen.command}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    options = parser.parse_intermixed_args(chosen.arguments)
    if passed_on is not None:
        if "passed_on" not in options:
            parser.error(f"takes nothing after --; there is: {shlex.join(passed_on)}")
        options.passed_on = tuple(passed_on)
    options.given = tuple(given)
    return int(command.run(options))


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The arguments before `--`, and those after it, which a command passes on to another program."""
    given = list(arguments)
    at = given.index("--") if "--" in given else len(given)
    return given[:at], given[at + 1 :] if at < len(given) else None


def _build_parser() -> Parser:
    listed = "\n".join(f"  {name:<12}{summary}" for name, summary in COMMANDS.items())
    parser = Parser(
        prog="dist-train",
        description="Distributed training from one YAML file.",
        epilog=f"commands, each with a --help of its own:\n{listed}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's own arguments")
    return parser
