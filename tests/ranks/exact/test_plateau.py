"""What follows from the evaluations of a run, at 1 and 2 real ranks: it is the same wherever the run was killed."""

import json
from pathlib import Path
from typing import Any

import pytest

from dist_train.checkpoint import serialization
from dist_train.monitoring import ledger
from dist_train.monitoring.metrics import read_lines
from dist_train.optim.plateau import ends_early, find_lr_factor
from dist_train.settings.schema import EarlyStopping
from dist_train.settings.schema.optim import Plateau
from tests.conftest import Python
from tests.ranks.conftest import DoJobs

pytestmark = pytest.mark.slow

WORLDS = (1, 2)
PLATEAU = Plateau(factor=0.5, patience=1, min_lr=0.002)
EARLY = EarlyStopping(patience=3)
# An epoch has 5 steps; evaluations at every third step, checkpoints at every second.
CONFIG = """
data: {name: synthetic, shape: [1, 8, 8], num_classes: 3, num_train: 40, num_test: 20, global_batch: 8, VALIDATION}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.02, momentum: 0.9, plateau: {factor: 0.5, patience: 1, min_lr: 0.002}}
train: {epochs: 20, EARLY}
eval: {every_steps: 3}
checkpoint: {every_steps: 2, keep_last: 100}
log: {every_steps: 1, tensorboard: false}
"""
KINDS = {
    "plateau": ("validation: 0.0", ""),
    "early": ("validation: 0.0", "early_stopping: {patience: 3}"),
    "validated": ("validation: 0.2", "early_stopping: {patience: 3}"),
}
CUTS = {"plateau": (8, 12, 38), "early": (6, 8, 10), "validated": (6, 8, 10)}
"""Steps of checkpoints from which a run resumes: 8 is before the evaluation of step 9, 6 and 12 are that of one."""


class Runs:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for kind, (validation, early) in KINDS.items():
            text = CONFIG.replace("VALIDATION", validation).replace("EARLY", early)
            (directory / f"{kind}.yaml").write_text(text)

    def path(self, kind: str, ranks: int, cut: int | None = None) -> Path:
        return self.directory / f"{kind}-{ranks}{'' if cut is None else f'-from-{cut}'}"

    def jobs(self, ranks: int) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = []
        for kind, cuts in CUTS.items():
            command = [str(self.directory / f"{kind}.yaml"), f"data.cache={self.directory / 'cache'}"]
            jobs.append({"train": [*command, f"run.dir={self.path(kind, ranks)}"]})
            for cut in cuts:
                copy = str(self.path(kind, ranks, cut))
                jobs.append({"cut": str(self.path(kind, ranks)), "to": copy, "step": cut})
                jobs.append({"train": [*command, f"run.dir={copy}"]})
        return jobs

    def lines(self, kind: str, ranks: int, cut: int | None = None) -> list[dict[str, Any]]:
        """The lines of metrics without what is a matter of time."""
        lines = read_lines(self.path(kind, ranks, cut) / "metrics.jsonl")
        return [{key: line[key] for key in line if key not in ("time", "samples_per_second")} for line in lines]

    def checkpoint(self, kind: str, ranks: int, cut: int | None = None) -> serialization.LoadedCheckpoint:
        return serialization.load(self.path(kind, ranks, cut) / "checkpoints" / "latest")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, do_jobs: DoJobs) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("evaluations"))
    for ranks in WORLDS:
        do_jobs(ranks, runs.jobs(ranks))
    return runs


@pytest.mark.parametrize("ranks", WORLDS)
def test_the_learning_rate_follows_from_the_evaluations_so_far(runs: Runs, ranks: int) -> None:
    values: list[float] = []
    rates = []
    for line in runs.lines("plateau", ranks):
        if line["kind"] == "train":
            rates.append(line["lr"])
            assert line["lr"] == max(0.02 * find_lr_factor(values, PLATEAU, higher_is_better=True), 0.002)
        else:
            values.append(line["accuracy"])
    assert len(set(rates)) >= 3, "the rate has to fall, or the test shows nothing"
    assert [line["lr"] for line in ledger.read(runs.path("plateau", ranks) / "ledger.jsonl")] == rates


@pytest.mark.parametrize("ranks", WORLDS)
@pytest.mark.parametrize("kind", ["early", "validated"])
def test_a_run_ends_at_the_first_evaluation_that_says_so(runs: Runs, kind: str, ranks: int) -> None:
    monitored = "validation" if kind == "validated" else "test"
    lines = [line for line in runs.lines(kind, ranks) if line["kind"] == "eval" and line["split"] == monitored]
    values = [line["accuracy"] for line in lines]
    ends = [ends_early(values[: count + 1], EARLY, higher_is_better=True) for count in range(len(values))]
    assert ends == [False] * (len(values) - 1) + [True]
    step = lines[-1]["step"]
    assert step < 100
    assert [line["step"] for line in lines] == list(range(3, step + 1, 3)), "each evaluation is made once"
    status = json.loads((runs.path(kind, ranks) / "status.json").read_text())
    assert (status["state"], status["step"]) == ("done", step)
    last = runs.lines(kind, ranks)[-1]
    assert (last["kind"], last["split"], last["step"]) == ("eval", "test", step)


@pytest.mark.parametrize("ranks", WORLDS)
@pytest.mark.parametrize(("kind", "cut"), [(kind, cut) for kind, cuts in CUTS.items() for cut in cuts])
def test_a_run_that_was_killed_ends_with_the_same_bits_and_lines(runs: Runs, kind: str, cut: int, ranks: int) -> None:
    """Also where an evaluation was made and nothing saved after it."""
    assert runs.lines(kind, ranks, cut) == runs.lines(kind, ranks)
    whole, resumed = (runs.checkpoint(kind, ranks, each) for each in (None, cut))
    assert resumed.files["training.pt"]["evaluations"] == whole.files["training.pt"]["evaluations"]
    assert serialization.weights_sha256(resumed.files["model.pt"]) == serialization.weights_sha256(
        whole.files["model.pt"]
    )


def test_a_run_that_has_ended_early_has_nothing_left_and_goes_on_with_more_patience(runs: Runs, python: Python) -> None:
    run = runs.path("early", 1)
    command = ("-m", "dist_train", str(runs.directory / "early.yaml"), f"run.dir={run}")
    before = runs.lines("early", 1)
    done = python(*command)
    assert done.returncode == 0, done.stderr
    assert "It ended early; more epochs: train.early_stopping.patience=..." in done.stdout
    assert runs.lines("early", 1) == before
    done = python(*command, "train.early_stopping.patience=30", "train.max_steps=40")
    assert done.returncode == 0, done.stderr
    assert "done, 40 steps" in done.stdout
    assert runs.lines("early", 1)[: len(before)] == before
