"""Predict pictures, tables, or samples of a run's data, with the run's own preprocessing and class names.

    dist-train predict runs/digits --limit 20                      the first samples of the test split, and the truth
    dist-train predict runs/pets cat.jpg more_pictures/ --top 3    picture files of any size, and folders
    dist-train predict runs/housing houses.csv --csv               a table with the columns of the training
    dist-train predict runs/digits --json --checkpoint best
    dist-train predict runs/digits -o grid.png                     also draws them

A pretrained network takes pictures with the transforms and labels of its weights:

    dist-train predict torchvision/resnet101 cat.jpg --weights DEFAULT --top 5
    dist-train predict timm/resnet18.a1_in1k cat.jpg --weights weights.pth
    dist-train predict hub/owner/repo@COMMIT:entry cat.jpg --trust-code
    dist-train predict hub//path/to/dir:entry cat.jpg --weights weights.pth

A file that can't be read is named, and the others are predicted; the exit code is 1 then. A network of `hub/` gets
ImageNet's preprocessing, and its labels if it has 1,000 outputs.
"""

import argparse
from pathlib import Path

from dist_train.run_arguments import add_checkpoint_arguments
from launch.arguments import number_from
from launch.sweeps.sweep_dir import refuse_sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="directory of a run, or the name of a network, as above")
    parser.add_argument(
        "inputs",
        nargs="*",
        default=[],
        metavar="FILE|FOLDER|key=value",
        help="pictures, folders of pictures, tables (CSV); other settings of the run, e.g. data.root=...",
    )
    add_checkpoint_arguments(parser)
    parser.add_argument("--weights", metavar="NAME|FILE", help="of a network by its name; default: DEFAULT")
    parser.add_argument(
        "--limit", type=number_from(1), metavar="N", help="the first N only; default: 20 of a split, all files"
    )
    parser.add_argument("--top", type=number_from(1), default=5, metavar="K", help="classes of each; default 5")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object a line")
    form.add_argument("--csv", action="store_true", help="print a table")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PICTURE", help="also draw the first 100 (.png, .svg or .pdf)"
    )


def run(options: argparse.Namespace) -> int:
    from dist_train.results.predict.command import predict

    refuse_sweep(Path(options.run))
    return predict(options)
