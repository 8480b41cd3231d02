"""Ranks that are stopped, or meet numbers that are none, at every kind of moment: what they leave, and how it goes on."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train import ledger
from dist_train.checkpoint import load, not_finite
from dist_train.metrics import read_lines
from dist_train.stop import PREEMPTED
from dist_train.store import Store
from dist_train.verdict import read_verdict
from tests.conftest import Python, Torchrun

pytestmark = pytest.mark.slow

SMALL = """
data: {name: synthetic, num_train: 1200, num_test: 1100, global_batch: 150, validation: 0.5}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.05, momentum: 0.9}
train: {max_steps: 8}
checkpoint: {every: 3}
eval: {every_epochs: 1}
log: {every: 1, tensorboard: false, weights_every: 1}
distributed: {backend: gloo, threads: 1}
"""
STEPS = 8  # 4 an epoch; an evaluation after the first, of 3 batches, and at the end one of 3 and one of 5
Done = subprocess.CompletedProcess[str]


class Runs:
    """Runs in one directory, by the agent on several ranks or as one process."""

    def __init__(self, directory: Path, python: Python) -> None:
        self.directory, self.python = directory, python
        (directory / "small.yaml").write_text(SMALL)

    def command(self, name: str, *overrides: str) -> list[str]:
        return ["tests/ranks/troubled.py", str(self.directory / "small.yaml"), f"run.dir={self[name]}", *overrides]

    def start(self, ranks: int, name: str, *overrides: str, **trouble: Any) -> Done:
        nproc = ["--nproc", str(ranks)] if ranks > 1 else []
        return self.python(*self.command(name, *overrides), *nproc, env=variables(trouble), timeout=60)

    def __getitem__(self, name: str) -> Path:
        return self.directory / name


def variables(trouble: dict[str, Any]) -> dict[str, str]:
    about = {"step": 0, "rank": -1, "signals": [], **trouble}
    return {"DIST_TRAIN_TEST_TROUBLE": json.dumps(about)} if trouble else {}


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())  # type: ignore[no-any-return]


def state(run: Path) -> tuple[str, bool, int]:
    found = status(run)
    return found["state"], found["resumable"], found["step"]


def timeless(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics without what is a matter of time."""
    lines = read_lines(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in ("time", "samples_per_second")} for line in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load(run / "checkpoints" / "latest").files["model.pt"]


def assert_same(run: Path, whole: Path) -> None:
    """One ended as the other, bit for bit."""
    assert ledger.compare(ledger.read(run / "ledger.jsonl"), ledger.read(whole / "ledger.jsonl")) == ledger.Comparison(
        STEPS, None
    )
    assert timeless(run) == timeless(whole)
    assert (run / "checkpoints" / "best").readlink() == (whole / "checkpoints" / "best").readlink()
    found, wanted = weights(run), weights(whole)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, python: Python) -> Runs:
    return Runs(tmp_path_factory.mktemp("stops"), python)


@pytest.fixture(scope="module")
def whole(runs: Runs) -> Callable[[int], Path]:
    """Undisturbed runs, by their number of ranks."""

    def trained(ranks: int) -> Path:
        name = f"whole-{ranks}"
        if not runs[name].exists():
            done = runs.start(ranks, name)
            assert done.returncode == 0, done.stdout + done.stderr
        return runs[name]

    return trained


# Each start of the run is stopped: where, by which signals, of which of two ranks, and after which step.
STOPS: list[tuple[dict[str, Any], int]] = [
    ({"at": "step", "step": 0, "rank": 1, "signals": ["SIGUSR1"]}, 1),
    ({"at": "step", "step": 1, "rank": 0, "signals": ["SIGUSR2"]}, 2),
    ({"at": "data", "step": 1, "rank": 1, "signals": ["SIGTERM"]}, 3),
    ({"at": "evaluation", "rank": 0, "signals": ["SIGUSR2", "SIGTERM"]}, 4),
    ({"at": "evaluation", "step": 5, "rank": 0, "signals": ["SIGTERM"]}, 8),
]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_stopped_at_every_moment_ends_as_an_undisturbed_one(
    runs: Runs, whole: Callable[[int], Path], ranks: int
) -> None:
    name = f"stopped-{ranks}"
    for trouble, step in STOPS:
        done = runs.start(ranks, name, **{**trouble, "rank": trouble["rank"] % ranks})
        assert done.returncode == PREEMPTED, (trouble, done.stdout, done.stderr)
        assert state(runs[name]) == ("preempted", True, step), trouble
        assert not (runs[name] / "diagnostics" / "verdict.json").exists()
        assert done.stderr == ""
    done = runs.start(ranks, name)
    assert done.returncode == 0, done.stderr
    assert_same(runs[name], whole(ranks))
    done = runs.start(ranks, name)
    assert "nothing left to do" in done.stdout
    assert timeless(runs[name]) == timeless(whole(ranks))
