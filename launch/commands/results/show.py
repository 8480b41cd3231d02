"""Draw samples as the network gets them, into a PNG, SVG or PDF file.

    dist-train show digits                        samples of the training split with their classes
    dist-train show digits --augmented            as the first steps of a training get them
    dist-train show runs/digits                   of the test split, with the network's predictions
    dist-train show runs/digits --wrong           its mistakes, the most confident first

Below each picture are the prediction with its probability, the truth, and the sample's number; mistakes have a frame.
Inputs of a few numbers are drawn as points against their target.
"""

import argparse
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.recipes import list_recipes
from dist_train.run_arguments import add_checkpoint_arguments
from dist_train.run_dir import RunDir
from dist_train.system.escape import escape
from launch.arguments import number_from
from launch.sweeps.sweep_dir import refuse_sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="CONFIG|RUN", help="settings, the name of a recipe, or a run's directory")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="other settings, e.g. data.root=..."
    )
    parser.add_argument("--wrong", action="store_true", help="only mistakes, the most confident first")
    parser.add_argument("--augmented", action="store_true", help="training samples with their random changes")
    parser.add_argument("--limit", type=number_from(1, most=1000), metavar="N", help="samples, at most; default 24")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("grid.png"), metavar="FILE",
        help="picture to write: .png, .svg or .pdf; default grid.png",
    )  # fmt: skip
    add_checkpoint_arguments(parser)


def run(options: argparse.Namespace) -> int:
    from dist_train.results.figure import check_destination

    refuse_sweep(Path(options.what))
    is_run = _names_run(options.what)
    _check(options, is_run)
    check_destination(options.output)
    drawn = _show_run(options) if is_run and not options.augmented else _show_data(options, is_run)
    print(f"{escape(options.output)}: {drawn}")
    return 0


def _names_run(what: str) -> bool:
    """Whether it is a directory; one with the name of a recipe must be a run."""
    return Path(what).is_dir() and (what not in list_recipes() or RunDir(what).config.exists())


def _check(options: argparse.Namespace, is_run: bool) -> None:
    """Raise ConfigError for options that contradict each other."""
    if options.augmented and options.split not in (None, "train"):
        raise ConfigError(f"--augmented: only training samples are changed at random, not --split {options.split}")
    if options.wrong and options.augmented:
        raise ConfigError("--wrong: a run is judged on samples without random changes; leave out --augmented")
    if options.checkpoint != "latest" and (options.augmented or not is_run):
        raise ConfigError(f"--checkpoint {escape(options.checkpoint)}: no network is used; leave it out, or name a run")
    if options.wrong and not is_run:
        raise ConfigError(f"--wrong: mistakes are those of a run, and {escape(options.what)} is none; e.g. runs/digits")


def _show_run(options: argparse.Namespace) -> str:
    from dist_train.results.predictions import open_predictions
    from dist_train.results.show import show_mistakes, show_run

    with open_predictions(
        options.what, options.split, options.checkpoint, options.overrides, trust_code=options.trust_code
    ) as predictions:
        return (show_mistakes if options.wrong else show_run)(predictions, options.limit, options.output)


def _show_data(options: argparse.Namespace, is_run: bool) -> str:
    from dist_train.checkpoint.code_of_run import code_of_run
    from dist_train.data.samples import SplitName
    from dist_train.evaluate import load_config_of
    from dist_train.results.show import show_data
    from dist_train.settings.loader import load_config

    split: SplitName = options.split or "train"
    if not is_run:
        config = load_config(options.what, options.overrides)
        return show_data(config, split, options.augmented, options.limit, options.output)
    config = load_config_of(RunDir(options.what), options.overrides)
    with code_of_run(config, Path(options.what), options.trust_code) as config:
        return show_data(config, split, options.augmented, options.limit, options.output)
