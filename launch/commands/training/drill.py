"""Test recovery: break a run in several ways, recover it as a user would, and compare the final weights bit for bit.

    dist-train drill configs/digits.yaml --rounds 20
    dist-train drill configs/digits.yaml --nproc 4 --faults kill,resize train.epochs=3

It trains once without a fault, then once per round with a fault at a random step. All runs are in `<run.dir>.drill/`,
the results in its `drill.json`. Exit code 0 if every round passes.
"""

import argparse
import sys

from dist_train.system.escape import escape, escape_lines
from launch.arguments import add_config_arguments, number_from
from launch.drill.drill import Drill, DrillError
from launch.drill.faults import FAULTS
from launch.local.training_command import max_ranks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--nproc", type=number_from(1, most=max_ranks()), default=2, metavar="N", help="number of ranks; default 2"
    )
    parser.add_argument(
        "--faults",
        type=_parse_faults,
        default=list(FAULTS),
        metavar="A,B",
        help=f"faults to inject, of {', '.join(FAULTS)}; default: all",
    )
    parser.add_argument("--rounds", type=number_from(1), default=20, metavar="N", help="number of rounds; default 20")
    parser.add_argument(
        "--seed", type=number_from(0, most=2**63 - 1), default=0, help="seed of the random steps and targets; default 0"
    )


def run(options: argparse.Namespace) -> int:
    """Train without a fault, then once per round; print a table and write `drill.json`."""
    from dist_train.settings.loader import load_config
    from dist_train.settings.loading.aliases import expand_all

    config = load_config(options.config, options.overrides)
    overrides = expand_all(options.config, options.overrides)
    drill = Drill(config, options.config, tuple(overrides), options.nproc)
    try:
        return 0 if drill.run_rounds(options.rounds, options.faults, options.seed) else 1
    except DrillError as error:
        print(escape_lines(str(error)), file=sys.stderr)
        return 1


def _parse_faults(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        raise argparse.ArgumentTypeError(
            f"{escape(', '.join(unknown), 60)}: no such fault; there are {', '.join(FAULTS)}"
        )
    return names
