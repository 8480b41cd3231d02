"""A small sweep, and the files that its trials leave."""

import json
from pathlib import Path

from dist_train.run_dir import RunDir
from launch.sweeps.grid import Grid
from launch.sweeps.sweep import Sweep

CONFIG = """
data: {name: synthetic, num_train: 320, num_test: 32, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.02}
train: {epochs: 2}
log: {every_steps: 20, tensorboard: false}
distributed: {backend: gloo}
"""


def sweep_of(*overrides: str) -> Sweep:
    return Sweep.plan(Path("small.yaml"), Grid.parse(overrides), lambda _: None)


def begin(*overrides: str) -> Sweep:
    """Write the files of a sweep, as its first start does."""
    sweep = sweep_of(*overrides)
    with sweep.claim():
        return sweep


def leave(sweep: Sweep, number: int, state: str) -> None:
    run = RunDir(sweep.trials[number].path)
    run.path.mkdir(parents=True)
    run.status.write_text(json.dumps({"state": state, "step": 1}))


def names(sweep: Sweep) -> list[str]:
    return [trial.path.name for trial in sweep.trials]
