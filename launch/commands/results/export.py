"""Export the weights or the network of a run for other programs.

    dist-train export runs/digits --format state_dict -o digits.pt        the weights, by their names
    dist-train export runs/digits --format checkpoint -o digits.tar       the dictionary of PyTorch's courses
    dist-train export runs/digits --format torch_export -o digits.pt2 --check
    dist-train export runs/digits --format onnx -o digits.onnx --checkpoint best --check
    dist-train export model.pkl --format state_dict -o model.pt --unsafe-pickle    the weights of a whole module

A run with train.ema_decay gives its average, but as checkpoint the weights that the optimizer has updated. The last two
take inputs as the network gets them, normalised, in batches of any size; their metadata have mean, std and classes.
"""

import argparse
from pathlib import Path

from dist_train.run_arguments import TRUST_HELP
from launch.sweeps.sweep_dir import refuse_sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="directory of a run; or a file of weights")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="other settings, e.g. data.root=..."
    )
    parser.add_argument(
        "--format", required=True, choices=("state_dict", "checkpoint", "torch_export", "onnx"), help="see above"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="is replaced if it is there")
    parser.add_argument(
        "--check",
        action="store_true",
        help="load the export and compare it with the network on samples; 1 if it differs",
    )
    parser.add_argument(
        "--checkpoint", default="latest", help="latest (default), best, a step's number, or a checkpoint's directory"
    )
    parser.add_argument("--trust-code", action="store_true", help=TRUST_HELP)
    parser.add_argument(
        "--unsafe-pickle", action="store_true", help="read a file with pickled objects, which can run any code"
    )


def run(options: argparse.Namespace) -> int:
    from dist_train.results.export import export

    refuse_sweep(options.run)
    return export(options)
