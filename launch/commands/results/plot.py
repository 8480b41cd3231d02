"""Draw loss, accuracy and learning rate of runs against their steps, into a PNG, SVG or PDF file.

    dist-train plot runs/digits                           training and evaluations of one run
    dist-train plot runs/digits runs/longer -o two.pdf    several runs, laid over each other
    dist-train plot runs/digits.sweep                     the trials of a sweep
    dist-train plot runs/digits --numbers loss,samples_per_second

Restarts are dotted lines. For a run that learns numbers, such as a line, there is also a panel of predictions.
"""

import argparse
import os
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.run_arguments import TRUST_HELP
from dist_train.run_dir import RunDir
from dist_train.system.escape import escape
from dist_train.system.read_file import may_exist
from launch.runs.find import find_directory, find_runs, is_run, list_trials
from launch.sweeps.sweep_dir import is_sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN|SWEEP", help="directory of a run or of a sweep, or a Slurm job")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("curves.png"), metavar="FILE",
        help="picture to write: .png, .svg or .pdf; default curves.png",
    )  # fmt: skip
    parser.add_argument(
        "--numbers", default="", metavar="NAME,...", help="what to draw, e.g. loss,accuracy,lr,samples_per_second"
    )
    parser.add_argument("--trust-code", action="store_true", help=TRUST_HELP)


def run(options: argparse.Namespace) -> int:
    from dist_train.results.charts import choose_names, draw_curves
    from dist_train.results.curves import read_all_curves
    from dist_train.results.figure import check_destination
    from dist_train.results.points import find_points

    check_destination(options.output)
    found = _find_labelled(options.runs)
    runs = read_all_curves(found)
    names = choose_names(runs, [name for name in options.numbers.split(",") if name])
    learns_numbers = len(found) == 1 and not {"rmse", "mae", "r2"}.isdisjoint(runs[0].names())
    points = find_points(found[0][1], options.trust_code) if learns_numbers else None
    draw_curves(runs, names, options.output, points)
    print(escape(options.output))
    return 0


def _find_labelled(texts: list[str]) -> list[tuple[str, Path]]:
    """Return runs with their labels: names, or paths where names are alike; of trials what differs in them."""
    found: list[tuple[str, Path]] = []
    for text in texts:
        path = find_directory(text)
        if is_sweep(path):
            begun = [trial for trial in list_trials(path) if may_exist(RunDir(trial.path).metrics)]
            found += [(trial.format_overrides() or trial.path.name, trial.path) for trial in begun]
        elif is_run(path) or not (inside := find_runs(path)):
            found.append((Path(os.path.realpath(path)).name, path))
        else:
            found += [(each.name, each) for each in inside]
    if not found:
        raise ConfigError(f"{escape(texts[0])}: is a sweep, and none of its trials has begun")
    labels = [label for label, _ in found]
    return [(label if labels.count(label) == 1 else str(path), path) for label, path in found]
