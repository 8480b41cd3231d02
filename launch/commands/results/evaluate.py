"""Evaluate a checkpoint of a run: each sample of a split once.

    dist-train evaluate runs/digits                                   accuracy on the test split, and per class
    dist-train evaluate runs/digits --split train --checkpoint best

On several GPUs: torchrun --nproc-per-node=N -m dist_train.evaluate RUN
"""

import argparse

from dist_train.run_arguments import add_evaluate_arguments as add_arguments
from launch.sweeps.sweep_dir import refuse_sweep

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    from dist_train.evaluate import evaluate_and_print

    refuse_sweep(options.run)
    evaluate_and_print(options)
    return 0
