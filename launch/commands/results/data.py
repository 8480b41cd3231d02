"""Describe the data of a settings file: count, shapes, classes, mean and std, duplicates, unreadable samples.

    dist-train data configs/digits.yaml
    dist-train data configs/image_folder.yaml data.root=photos --json

Each sample is read once, as it is before augmentation and normalisation. Exit code 1 if one can't be read.
"""

import argparse
import json

from launch.arguments import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    from dist_train.results.describe_data import describe_data
    from dist_train.settings.loader import load_config

    summary = describe_data(load_config(options.config, options.overrides))
    print(json.dumps(summary.to_dict()) if options.json else summary)
    return 0 if summary.is_readable else 1
