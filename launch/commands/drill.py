"""Break a run in every way there is, recover as a user would, and compare the weights it ends with, bit for bit.

    dist-train drill configs/digits.yaml --rounds 20
    dist-train drill configs/digits.yaml --nproc 4 --faults kill,resize train.epochs=3

The settings are trained once undisturbed, then once a round, struck by a fault at a random step. All lies in
`<run.dir>.drill/`, with the result in its `drill.json`. Exit code 0 only if every round ends as it has to.
"""

import argparse
import signal
import sys
from random import Random

from launch.arguments import number_from
from launch.drill.drill import Drill, DrillError
from launch.drill.faults import FAULTS
from launch.drill.report import HEADING, RoundResult
from launch.local.training_command import max_ranks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="file of settings, e.g. configs/digits.yaml")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that override the file's"
    )
    parser.add_argument(
        "--nproc", type=number_from(1, most=max_ranks()), default=2, metavar="N", help="number of ranks; default 2"
    )
    parser.add_argument(
        "--faults",
        type=_parse_faults,
        default=list(FAULTS),
        metavar="A,B",
        help=f"of {', '.join(FAULTS)}; default: all",
    )
    parser.add_argument(
        "--rounds", type=number_from(1), default=20, metavar="N", help="runs that are struck; default 20"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drill's own random numbers; default 0")


def run(options: argparse.Namespace) -> int:
    """Train undisturbed, then once a round; print a table and write `drill.json`."""
    from dist_train.settings.loader import load_config

    config = load_config(options.config, options.overrides)
    drill = Drill(config, options.config, tuple(options.overrides), options.nproc)
    drill.prepare_directory()
    print(f"{options.rounds} rounds on {options.nproc} ranks in {drill.directory}, seed {options.seed}", flush=True)
    print(HEADING, flush=True)
    random = Random(options.seed)  # noqa: S311 (not for secrets)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end like Ctrl-C: what runs is ended first
    rounds: list[RoundResult] = []
    about = {name: getattr(options, name) for name in ("config", "overrides", "nproc", "faults", "seed")}
    try:
        for number in range(1, options.rounds + 1):
            rounds.append(drill.run_round(number, options.faults[(number - 1) % len(options.faults)], random))
            print(rounds[-1].format_row(), flush=True)
            drill.write_results(about, rounds)
    except DrillError as error:
        print(error, file=sys.stderr)
        return 1
    passed = sum(ended.passed for ended in rounds)
    print(f"{passed} passed, {len(rounds) - passed} failed")
    return 0 if passed == len(rounds) else 1


def _parse_faults(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such fault; there are {', '.join(FAULTS)}")
    return names
