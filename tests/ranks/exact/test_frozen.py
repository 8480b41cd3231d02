"""Fine-tuning at 1 and 2 real ranks: weights are loaded, frozen and trained later, exact wherever a run was killed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_train.checkpoint import serialization
from dist_train.monitoring import ledger
from tests.ranks.conftest import DoJobs

pytestmark = pytest.mark.slow

WORLDS = (1, 2)
# An epoch has 5 steps, the last of 3 samples; checkpoints at every second, so that one is between two epochs.
CONFIG = """
data: {name: synthetic, shape: [1, 8, 8], num_classes: 3, num_train: 35, num_test: 20, global_batch: 8}
model: {name: "nets.py:Net", weights: weights.pt, head: new, freeze: backbone, unfreeze: {1: ["*2.*"], 2: ["*"]}}
optim: {name: sgd, lr: 0.02, momentum: 0.9, weight_decay: 0.01}
train: {epochs: 3, ema_decay: 0.9}
checkpoint: {every_steps: 2, keep_last: 100}
log: {tensorboard: false}
"""
NETS = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__()
        for number, (before, after) in enumerate([(1, 4), (4, 8)], start=1):
            self.add_module(f"conv{number}", nn.Conv2d(before, after, 3))
            self.add_module(f"norm{number}", nn.BatchNorm2d(after))
            self.add_module(f"relu{number}", nn.ReLU())
        self.add_module("flat", nn.Flatten())
        self.add_module("fc", nn.Linear(128, 7))
"""
CUTS = (4, 6, 10)
"""Steps of checkpoints from which a run resumes: 10 is that of an epoch's end, after which more is trained."""
SHAPES = {
    **{f"conv{number}.weight": shape for number, shape in ((1, (4, 1, 3, 3)), (2, (8, 4, 3, 3)))},
    **{f"conv{number}.bias": (size,) for number, size in ((1, 4), (2, 8))},
    **{f"norm{number}.{name}": (size,) for number, size in ((1, 4), (2, 8))
       for name in ("weight", "bias", "running_mean", "running_var")},
    "fc.weight": (7, 128), "fc.bias": (7,),
}  # fmt: skip


def make_weights() -> dict[str, Tensor]:
    """Weights as DistributedDataParallel saves them, of a network for seven classes."""
    generator = torch.Generator().manual_seed(0)
    weights = {f"module.{name}": torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}
    return {**weights, **{f"module.norm{number}.num_batches_tracked": torch.tensor(5) for number in (1, 2)}}


class Runs:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "config.yaml").write_text(CONFIG)
        (directory / "nets.py").write_text(NETS)
        torch.save(make_weights(), directory / "weights.pt")

    def path(self, ranks: int, kind: str | int) -> Path:
        return self.directory / f"{ranks}-{kind}"

    def jobs(self, ranks: int) -> list[dict[str, Any]]:
        common = [str(self.directory / "config.yaml"), f"model.weights={self.directory / 'weights.pt'}"]
        whole = self.path(ranks, "whole")
        jobs: list[dict[str, Any]] = [{"train": [*common, f"run.dir={whole}"]}]
        for cut in CUTS:
            jobs.append({"cut": str(whole), "to": str(self.path(ranks, cut)), "step": cut})
            jobs.append({"train": [*common, f"run.dir={self.path(ranks, cut)}"]})
        bitwise = [*common, f"run.dir={self.path(ranks, 'bitwise')}", "run.reproducible=bitwise"]
        return [*jobs, {"train": [*bitwise, "distributed.shards=8"]}]

    def files(self, ranks: int, kind: str | int, step: int) -> serialization.Files:
        return serialization.load(self.path(ranks, kind) / f"checkpoints/step_{step:08d}").files


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, do_jobs: DoJobs) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("frozen"))
    for ranks in WORLDS:
        do_jobs(ranks, runs.jobs(ranks))
    return runs


@pytest.mark.parametrize("ranks", WORLDS)
@pytest.mark.parametrize("kind", ["whole", "bitwise"])
def test_frozen_parts_keep_every_bit_until_they_are_trained(runs: Runs, kind: str, ranks: int) -> None:
    loaded = {name.removeprefix("module."): value for name, value in make_weights().items()}
    kept = {
        step: {name for name, value in runs.files(ranks, kind, step)["model.pt"].items() if
               value.shape == loaded[name].shape and torch.equal(value, loaded[name])}
        for step in (4, 10, 15)
    }  # fmt: skip
    backbone = {name for name in loaded if not name.startswith("fc.")}
    assert kept == {4: backbone, 10: {name for name in backbone if "1." in name}, 15: set()}


@pytest.mark.parametrize("ranks", WORLDS)
def test_frozen_parts_have_no_state_in_the_optimizer(runs: Runs, ranks: int) -> None:
    counts = [len(runs.files(ranks, "whole", step)["training.pt"]["optimizer_state_dict"]["state"]) for step in (4, 6)]
    assert counts == [2, 6]


@pytest.mark.parametrize("ranks", WORLDS)
@pytest.mark.parametrize("cut", CUTS)
def test_a_run_that_was_killed_ends_with_the_same_bits(runs: Runs, cut: int, ranks: int) -> None:
    whole, resumed = (runs.files(ranks, kind, 15) for kind in ("whole", cut))
    for name in ("model.pt", "average.pt"):
        assert serialization.weights_sha256(whole[name]) == serialization.weights_sha256(resumed[name])
    lines = [list(ledger.read(runs.path(ranks, kind) / "ledger.jsonl")) for kind in ("whole", cut)]
    assert lines[0] == lines[1]


def test_the_number_of_ranks_changes_no_bit_where_that_is_promised(runs: Runs) -> None:
    one, two = (runs.files(ranks, "bitwise", 15)["model.pt"] for ranks in WORLDS)
    assert serialization.weights_sha256(one) == serialization.weights_sha256(two)
