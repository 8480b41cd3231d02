"""Results that come late, as on a GPU: a run writes the same as if they came at once, however it ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_train.distributed.world import World
from dist_train.errors import NonFiniteError
from dist_train.settings.loader import load_config
from dist_train.system.stop_signals import Stop
from dist_train.train import train
from dist_train.training import setup
from dist_train.training.run import TrainingRun
from dist_train.training.step_results import LAG, StepResult, StepResults

CONFIG = """
run: {name: late}
data: {name: synthetic, shape: [1, 8, 8], num_classes: 4, num_train: 40, num_test: 12, global_batch: 8}
model: {name: mnist_cnn}
optim: {lr: 0.01}
train: {epochs: 3}
checkpoint: {every_steps: 4}
log: {every_steps: 3, weights_every_steps: 2, tensorboard: false, progress: "off"}
distributed: {backend: gloo, threads: 1, allocator: system}
"""
STEPS = 15


class LateResults(StepResults):
    """Returns each result `LAG` steps after the step, as on a GPU."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._late: list[StepResult] = []

    def add(self, step: int, lr: float, samples: Tensor, scalars: Tensor, grad_norm: Tensor | None) -> list[StepResult]:
        self._late += super().add(step, lr, samples, scalars, grad_norm)
        return [self._late.pop(0) for _ in range(len(self._late) - LAG)]

    def flush(self) -> list[StepResult]:
        found, self._late = self._late, []
        return found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Train in a directory of this name; returns the lines of metrics and ledger, without times."""
    threads = torch.get_num_threads()
    settings = tmp_path / "late.yaml"
    settings.write_text(CONFIG)

    def train_and_read(name: str, late: bool, stop_after: int | None = None) -> tuple[list[Any], list[Any]]:
        config = load_config(settings, [f"run.dir={tmp_path / name}", f"data.cache={tmp_path / 'cache'}"])
        stop, record_step = Stop(), TrainingRun.record_step

        def record_and_stop(self: TrainingRun, *arguments: Any) -> None:
            record_step(self, *arguments)
            if self.state.step == stop_after:
                stop.reason = "the test"

        with monkeypatch.context() as patch:
            patch.setattr(setup, "StepResults", LateResults if late else StepResults)
            patch.setattr(TrainingRun, "record_step", record_and_stop)
            train(config, World(), stop)
        files = (tmp_path / name / "metrics.jsonl", tmp_path / name / "ledger.jsonl")
        metrics, ledger = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
        timed = ("time", "samples_per_second")
        return [{key: value for key, value in line.items() if key not in timed} for line in metrics], ledger

    yield train_and_read
    torch.set_num_threads(threads)


def test_late_results_write_the_same_lines(run: Any) -> None:
    assert run("late", late=True) == run("at-once", late=False)


def test_a_stop_after_any_step_loses_no_line(run: Any) -> None:
    undisturbed = run("whole", late=False)
    for step in range(1, STEPS):
        name = f"stopped-{step}"
        _, ledger = run(name, late=True, stop_after=step)
        assert [line["step"] for line in ledger] == list(range(1, len(ledger) + 1))
        assert len(ledger) >= step
        assert run(name, late=True) == undisturbed, step


def test_no_checkpoint_holds_a_loss_that_is_not_finite(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = LateResults.add

    def spoil(self: LateResults, step: int, lr: float, samples: Tensor, scalars: Tensor, norm: Any) -> list[StepResult]:
        return add(self, step, lr, samples, scalars * torch.nan if step == 7 else scalars, norm)

    monkeypatch.setattr(LateResults, "add", spoil)
    with pytest.raises(NonFiniteError, match="step 7"):  # step 8 is saved, and its result comes after step 10
        run("spoiled", late=True)
    assert [path.name for path in sorted((tmp_path / "spoiled/checkpoints").glob("step_*"))] == [
        "step_00000004",
        "step_00000005",
    ]
