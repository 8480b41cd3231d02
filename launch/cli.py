"""The command `dist-train`: choose a subcommand, parse its arguments, run it.

A subcommand is a line in `GROUPS` and a module of `launch.commands` with `add_arguments(parser)` and
`run(options) -> int`, which returns the exit code. Only the chosen module is imported, and it imports pydantic and
the like in `run`, so that `--help` is fast.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from dist_train.errors import ConfigError
from dist_train.system.escape import escape
from dist_train.system.exit import Parser, run_guarded
from dist_train.system.read_file import explain
from launch.arguments import TAKES_ALIASES

GROUPS = {
    "training": {
        "train": "train on all GPUs of this machine, or on its CPU",
        "submit": "train as a Slurm job",
        "sweep": "train a grid of settings, on this machine or as a Slurm job array",
        "new": "make a project of your own that trains at once",
        "recipes": "list the settings files that come with dist-train, or print one",
        "drill": "test recovery: break a run in several ways and compare the final weights",
    },
    "runs": {
        "status": "list runs: state, step, speed, time left",
        "logs": "print the output of a run",
        "cancel": "stop a run after saving a checkpoint",
        "diff": "find the first step at which two runs differ",
        "postmortem": "explain why a run ended",
        "ckpt": "list, verify or remove the checkpoints of a run",
    },
    "results": {
        "evaluate": "evaluate a checkpoint of a run on a split of its data",
        "predict": "predict pictures, tables or samples, by a run or by a network of torchvision, timm or a hub",
        "show": "draw samples as the network gets them, and its predictions",
        "plot": "draw the curves of runs",
        "export": "write the weights or the network of a run for other programs, e.g. as ONNX",
        "data": "describe data: counts, shapes, classes, mean and std, duplicates",
        "model": "describe a network: layers, shapes, weights, multiply-adds",
    },
}
"""Commands by their folder in `launch.commands`, with what they do."""
COMMANDS = {name: group for group, summaries in GROUPS.items() for name in summaries}
"""The folder of each command."""
EXIT_CODES = """\
exit codes:
  0    success
  1    internal error, with a traceback; or a check failed
  2    user error, with a message that says how to fix it
  4    the loss or a gradient is not finite
  75   stopped by a signal or a time limit; the same command resumes
  130  interrupted twice (Ctrl-C), not saved
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dist-train` and return the exit code; `arguments` defaults to those of this process."""
    return run_guarded(lambda: _run(arguments))


def load_command(name: str) -> ModuleType:
    """Return the module of a command."""
    return import_module(f"launch.commands.{COMMANDS[name]}.{name}")


def _run(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    own, passed_on = _split_at_dashes(given)
    command_parser = _build_parser()
    chosen = command_parser.parse_args(own)
    if chosen.command not in COMMANDS:
        command_parser.error(_explain_unknown_command(chosen.command))
    command = load_command(chosen.command)
    parser = Parser(
        prog=f"dist-train {chosen.command}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    options = _parse_arguments(parser, chosen.arguments)
    if passed_on is not None:
        if "passed_on" not in options:
            parser.error(f"takes no arguments after --; given: {shlex.join(passed_on)}")
        options.passed_on = tuple(passed_on)
    options.command_arguments = tuple(given)
    try:
        return int(command.run(options))
    except OSError as error:
        # Of a file that another program has changed, or that the user may not use.
        if error.filename is None:
            raise
        raise ConfigError(f"{escape(error.filename)}: {explain(error)}") from error


def _parse_arguments(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command; one with `add_config_arguments` takes the aliases of its file, too."""
    if not parser.get_default(TAKES_ALIASES):
        return parser.parse_intermixed_args(arguments)
    from dist_train.settings.loading.aliases import parse_with_aliases

    return parse_with_aliases(parser, arguments)


def _explain_unknown_command(name: str) -> str:
    close = get_close_matches(name.lower(), COMMANDS, 1)
    guess = f". Did you mean {close[0]}?" if close else f"; there are {', '.join(COMMANDS)}"
    return f"'{escape(name, 60)}' is not a command{guess}"


def _split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Split into the arguments before `--` and those after it, which `submit` passes on to sbatch."""
    given = list(arguments)
    at = given.index("--") if "--" in given else len(given)
    return given[:at], given[at + 1 :] if at < len(given) else None


def _build_parser() -> Parser:
    listed = "\n\n".join(
        "\n".join([f"{group}:", *(f"  {name:<12}{summary}" for name, summary in summaries.items())])
        for group, summaries in GROUPS.items()
    )
    parser = Parser(
        prog="dist-train",
        description="Distributed training from one YAML file.",
        epilog=f"dist-train COMMAND --help explains each.\n\n{listed}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's own arguments")
    return parser
