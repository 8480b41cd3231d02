"""Each optimizer through the whole training, at 1 and 3 real ranks, against a plain loop with torch's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from dist_train.data import TrainBatches, open_dataset
from dist_train.distributed.world import World
from dist_train.models import build_model
from dist_train.monitoring import ledger
from dist_train.settings.loader import load_config
from dist_train.settings.schema.optim import Optim
from tests.conftest import weights_hash
from tests.ranks.conftest import DoJobs
from tests.unit.dist_train.optim.in_torch import IN_TORCH, build_plain, settings_of

pytestmark = pytest.mark.slow

STEPS, CUT = 6, 3
WORLDS = {"fp32": (1, 3), "bf16": (1, 3), "bitwise": (1, 2)}
"""Modes, and the numbers of ranks that train in them."""
# 20 samples in batches of 7: 3 ranks have unequal shares, and the last batch of an epoch is smaller.
CONFIG = """
data: {name: synthetic, shape: [1, 8, 8], num_classes: 3, num_train: 20, num_test: 5, global_batch: 7}
model: {name: mnist_cnn}
train: {max_steps: 6, ema_decay: 0.5}
eval: {every_epochs: 0}
checkpoint: {every_steps: 3}
log: {tensorboard: false}
"""
MODES: dict[str, dict[str, Any]] = {
    "fp32": {"train": {"precision": "fp32"}},
    "bf16": {"train": {"precision": "bf16"}},
    "bitwise": {"run": {"reproducible": "bitwise"}, "distributed": {"shards": 2}},
}
# Muon computes in bfloat16, which makes 2^-8 of a difference in the last bit; Rprop takes the sign of a gradient.
TOLERANCES = {"fp32": {"Muon": 0.05, "Rprop": 0.01}, "bf16": {}}
CASES = pytest.mark.parametrize("section", IN_TORCH, ids=lambda section: section.__name__)


class Runs:
    """The runs of all optimizers and modes, of which each is in the settings file of its name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, section: type[Optim], mode: str) -> Path:
        settings = {**yaml.safe_load(CONFIG), "optim": {**settings_of(section), "schedule": "cosine"}}
        for name, more in MODES[mode].items():
            settings[name] = {**settings.get(name, {}), **more}
        path = self.directory / f"{section.__name__}-{mode}.yaml"
        plain = json.loads(json.dumps(settings))  # without tuples, which YAML does not have
        path.write_text(yaml.safe_dump(plain))
        return path

    def run(self, section: type[Optim], mode: str, ranks: int, end: str = "") -> Path:
        return self.directory / f"{section.__name__}-{mode}-{ranks}{end}"

    def jobs(self, ranks: int) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = []
        for section in IN_TORCH:
            for mode in [mode for mode, worlds in WORLDS.items() if ranks in worlds]:
                config, whole = str(self.write(section, mode)), self.run(section, mode, ranks)
                cache = f"data.cache={self.directory / 'cache'}"
                jobs.append({"train": [config, f"run.dir={whole}", cache]})
                if mode != "bitwise":
                    cut = str(self.run(section, mode, ranks, "-cut"))
                    jobs += [{"cut": str(whole), "to": cut, "step": CUT}, {"train": [config, f"run.dir={cut}", cache]}]
        return jobs

    def losses(self, section: type[Optim], mode: str, ranks: int) -> list[float]:
        lines = ledger.read(self.run(section, mode, ranks) / "ledger.jsonl")
        return [loss for line in lines if (loss := ledger.hex_to_float(line["loss"])) is not None]

    def weights(self, section: type[Optim], mode: str, ranks: int, end: str = "") -> str:
        return weights_hash(self.run(section, mode, ranks, end))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, do_jobs: DoJobs) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("optimizers"))
    for ranks in sorted({ranks for worlds in WORLDS.values() for ranks in worlds}):
        do_jobs(ranks, runs.jobs(ranks))
    return runs


def train_plainly(section: type[Optim], path: Path, precision: str) -> list[float]:
    """The losses of a loop as a lesson has it, over the same batches."""
    config = load_config(path)
    dataset = open_dataset(config.data, config.run.seed, World())
    network = build_model(config.model, dataset.shape, len(dataset.classes), config.run.seed)
    filters = {name: weight for name, weight in network.named_parameters() if weight.dim() > 2}
    matrices = {name: nn.Parameter(weight.detach().flatten(1)) for name, weight in filters.items()}
    optimizers = build_plain(section, network)
    if section.__name__ == "Muon":  # torch's takes a filter as a matrix in the same memory
        optimizers[0].add_param_group({"params": list(matrices.values())})
    schedulers = [CosineAnnealingLR(optimizer, STEPS) for optimizer in optimizers]
    losses = []
    with TrainBatches(dataset, config.data, 0, World(), 0, STEPS, torch.contiguous_format) as batches:
        for batch in batches:
            (each,) = batch.shards[0].passes
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = functional.cross_entropy(network(each.inputs), each.targets)
            network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
            for name, matrix in matrices.items():
                gradient = filters[name].grad
                assert gradient is not None
                matrix.grad = gradient.flatten(1)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
    return losses


@CASES
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_losses_are_those_of_a_plain_loop(runs: Runs, section: type[Optim], precision: str, ranks: int) -> None:
    expected = train_plainly(section, runs.directory / f"{section.__name__}-{precision}.yaml", precision)
    found = runs.losses(section, precision, ranks)
    assert len(found) == STEPS
    default = 1e-3 if precision == "fp32" else 0.05
    assert found == pytest.approx(expected, rel=TOLERANCES[precision].get(section.__name__, default))
    assert max(expected) > 1.02 * min(expected), "the losses have to move, or any two would agree"


@CASES
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_resumed_run_ends_with_the_same_bits(runs: Runs, section: type[Optim], precision: str, ranks: int) -> None:
    assert runs.weights(section, precision, ranks, "-cut") == runs.weights(section, precision, ranks)


@CASES
def test_bits_are_the_same_at_any_number_of_ranks_in_the_bitwise_mode(runs: Runs, section: type[Optim]) -> None:
    assert runs.weights(section, "bitwise", 1) == runs.weights(section, "bitwise", 2)


def test_no_two_optimizers_train_alike(runs: Runs) -> None:
    """The comparisons above would also hold of one that takes the place of all."""
    assert len({runs.weights(section, "fp32", 1) for section in IN_TORCH}) == len(IN_TORCH)
