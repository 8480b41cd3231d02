"""Describe the network of a settings file: layers, output shapes, weights, multiply-adds, groups of the optimizer.

    dist-train model configs/mnist_lenet.yaml
    dist-train model configs/digits.yaml model.name=torchvision/resnet18 --json

The data are opened, because they decide the shapes; nothing is trained, and no run is begun. Multiply-adds are those of
matrix products, convolutions and attention for one sample, forward.
"""

import argparse
import json

from launch.arguments import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    from dist_train.results.describe_model import describe_model
    from dist_train.settings.loader import load_config

    summary = describe_model(load_config(options.config, options.overrides))
    print(json.dumps(summary.to_dict()) if options.json else summary)
    return 0
