"""Arguments of the commands that use a checkpoint of a run; without torch, so that their `--help` is fast."""

import argparse
from pathlib import Path

SPLITS = ("train", "validation", "test")
TRUST_HELP = "run code that the run has kept also if it belongs to another user"


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--split`, `--checkpoint` and `--trust-code`."""
    parser.add_argument("--split", choices=SPLITS, help="default: test, or validation if the run has no test split")
    parser.add_argument(
        "--checkpoint", default="latest", help="latest (default), best, a step's number, or a checkpoint's directory"
    )
    parser.add_argument("--trust-code", action="store_true", help=TRUST_HELP)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RUN and `key=value`, as `options.run` and `options.overrides`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's directory, e.g. runs/digits")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="other settings, e.g. data.root=..."
    )


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of an evaluation, of `dist-train evaluate` and `python -m dist_train.evaluate` alike."""
    add_run_arguments(parser)
    add_checkpoint_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
