"""`run.reproducible: bitwise`: the same bits at any number of ranks, also where it changes at each resume."""

from pathlib import Path
from typing import Any

import pytest

from dist_train.monitoring import ledger, ledger_comparison
from tests.conftest import Ranks, weights_hash
from tests.ranks.conftest import DoJobs

pytestmark = pytest.mark.slow

WORLDS = (1, 2, 4)
# 92 samples in batches of 30: the last batch of an epoch has 2, so most of the 8 shards are empty then.
CONVOLUTIONS = """
run: {reproducible: bitwise}
data: {name: synthetic, num_train: 92, num_test: 70, global_batch: 30, validation: 0.0,
       augment: {crop_padding: 2, flip: true, cutout: 6}}
model: {name: mnist_example, dropout: 0.3}
optim: {name: sgd, lr: 0.02, momentum: 0.9, schedule: cosine, warmup_epochs: 0.5}
train: {epochs: 2, micro_batch: 3, ema_decay: 0.8, max_grad_norm: 1.0}
loss: {name: cross_entropy, args: {label_smoothing: 0.1}}
distributed: {backend: gloo, shards: 8}
checkpoint: {every_steps: 1, keep_last: 100}
log: {every_steps: 3, tensorboard: false, weights_every_steps: 1}
"""
BATCHNORM = """
run: {reproducible: bitwise}
data: {name: synthetic, num_train: 40, num_test: 20, global_batch: 20}
model: {name: mnist_cnn}
optim: {name: adam, lr: 0.001}
train: {epochs: 2}
distributed: {backend: gloo}
checkpoint: {every_steps: 1, keep_last: 100}
log: {every_steps: 2, tensorboard: false, weights_every_steps: 1}
"""
CONFIGS = {"convolutions": CONVOLUTIONS, "batchnorm": BATCHNORM}


class Runs:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, text in CONFIGS.items():
            (directory / f"{name}.yaml").write_text(text)

    def path(self, name: str) -> Path:
        return self.directory / name

    def arguments(self, config: str, name: str, *overrides: str) -> list[str]:
        cache = f"data.cache={self.directory / 'cache'}"
        return [
            str(self.directory / f"{config}.yaml"),
            f"run.name={name}",
            f"run.dir={self.path(name)}",
            cache,
            *overrides,
        ]

    def weights(self, name: str) -> str:
        return weights_hash(self.path(name))

    def ledger(self, name: str) -> list[dict[str, Any]]:
        return ledger.read(self.path(name) / "ledger.jsonl")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, do_jobs: DoJobs) -> Runs:
    """Each configuration at each number of ranks, and one run that goes through all of them."""
    runs = Runs(tmp_path_factory.mktemp("bitwise"))
    for ranks in WORLDS:
        jobs: list[dict[str, Any]] = [
            {"train": runs.arguments(config, f"{config}-{ranks}"), "normalised": config == "batchnorm"}
            for config in CONFIGS
        ]
        do_jobs(ranks, jobs)
    before = "convolutions-4"
    for ranks, step in ((1, 2), (4, 4), (2, 7)):  # killed after `step`, gone on with by `ranks`
        name = f"resized-{ranks}"
        cut = {"cut": str(runs.path(before)), "to": str(runs.path(name)), "step": step}
        do_jobs(ranks, [cut, {"train": runs.arguments("convolutions", name)}])
        before = name
    return runs


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("ranks", WORLDS[1:])
def test_weights_are_the_same_bits_at_any_number_of_ranks(runs: Runs, config: str, ranks: int) -> None:
    assert runs.weights(f"{config}-{ranks}") == runs.weights(f"{config}-1")
    assert ledger_comparison.compare(runs.ledger(f"{config}-{ranks}"), runs.ledger(f"{config}-1")).divergence is None


def test_they_stay_the_same_where_the_number_changes_at_each_resume(runs: Runs) -> None:
    for name in ("resized-1", "resized-4", "resized-2"):
        assert runs.weights(name) == runs.weights("convolutions-1")


def test_the_ledger_has_every_step_and_its_weights(runs: Runs) -> None:
    lines = runs.ledger("convolutions-2")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert len({line["weights"] for line in lines}) == 8
    assert lines[-1]["weights"] == runs.weights("convolutions-2")


def test_ranks_that_can_t_share_the_shards_are_refused(runs: Runs, on_ranks: Ranks) -> None:
    done = on_ranks(3, "-m", "dist_train", *runs.arguments("batchnorm", "three"))
    assert done.returncode == 1
    assert "distributed.shards is 8, which 3 ranks can't share equally" in done.stderr
    assert "start 1, 2, 4 or 8 ranks" in done.stderr
    assert not runs.path("three").exists()
