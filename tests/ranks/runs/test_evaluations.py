"""What runs make of evaluations: the best checkpoint by any number and split, and faults of the user's metrics."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Python, Ranks

pytestmark = pytest.mark.slow

SETTINGS = """
data: {name: synthetic, shape: [1, 12, 12], num_classes: 3, num_train: 60, num_test: 30, global_batch: 20}
model: {name: mnist_cnn}
optim: {name: adam, lr: 0.003}
train: {epochs: 6}
metrics: [accuracy, top2, macro_f1, confusion_matrix]
checkpoint: {keep_last: 1}
log: {every_steps: 3, tensorboard: true}
"""
METRICS = """
import torch

calls = 0

def fails_once(output, target):
    global calls
    calls += 1
    if calls == 2:
        raise KeyError("no such class")
    return 0.5

def not_a_number(output, target):
    return output.mean() * float("nan")

def infinite(output, target):
    return torch.full((len(target),), float("inf"))

def text(output, target):
    return "good"

def of_wrong_shape(output, target):
    return output

def class_sum(output, target):
    return target
"""


def settings(tmp_path: Path, *overrides: str) -> list[str]:
    (tmp_path / "run.yaml").write_text(SETTINGS)
    (tmp_path / "metrics.py").write_text(METRICS)
    return [str(tmp_path / "run.yaml"), f"run.dir={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", *overrides]


def read_evaluations(tmp_path: Path) -> list[dict[str, Any]]:
    """The eval lines; every line must be JSON of the standard."""

    def refuse(text: str) -> Any:
        raise AssertionError(text)

    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [line for line in lines if line["kind"] == "eval"]


def best_step(tmp_path: Path) -> int:
    return int((tmp_path / "run" / "checkpoints" / "best").resolve().name.partition("_")[2])


@pytest.mark.parametrize(
    ("monitor", "mode", "split"),
    [
        ("accuracy", "max", "validation"),
        ("loss", "min", "test"),
        ("macro_f1", "min", "validation"),
    ],
)
def test_the_best_checkpoint_is_that_of_the_monitored_number(
    tmp_path: Path, python: Python, monitor: str, mode: str, split: str
) -> None:
    """Also where the run was cut in the middle."""
    given = [
        "data.validation=0.3",
        f"checkpoint.monitor={monitor}",
        f"checkpoint.mode={mode}",
        f"checkpoint.split={split}",
    ]
    for epochs in (3, 6):
        done = python("-m", "dist_train", *settings(tmp_path, *given, f"train.epochs={epochs}"))
        assert done.returncode == 0, done.stderr
    lines = [line for line in read_evaluations(tmp_path) if line["split"] == split]
    values = {line["step"]: line[monitor] for line in lines}
    assert len(values) == 6
    best = (max if mode == "max" else min)(values.values())
    assert best_step(tmp_path) == next(step for step, value in values.items() if value == best)


def test_another_number_to_monitor_starts_again(tmp_path: Path, python: Python) -> None:
    python("-m", "dist_train", *settings(tmp_path, "train.epochs=3"))
    done = python("-m", "dist_train", *settings(tmp_path, "checkpoint.monitor=loss"))
    assert done.returncode == 0, done.stderr
    assert "setting changed: checkpoint.monitor: null -> loss" in done.stdout
    assert "the best checkpoint is chosen by another number than before, loss min test" in done.stdout
    losses = {line["step"]: line["loss"] for line in read_evaluations(tmp_path) if line["step"] > 9}
    assert best_step(tmp_path) == min(losses, key=lambda step: losses[step])


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([], "there is no validation split, so the best checkpoint is chosen on the test split"),
        (["checkpoint.split=test"], None),
        (["data.validation=0.3", "checkpoint.split=test"], None),
    ],
)
def test_a_best_by_the_test_split_is_said(
    tmp_path: Path, python: Python, overrides: list[str], line: str | None
) -> None:
    done = python("-m", "dist_train", *settings(tmp_path, *overrides, "train.max_steps=1"))
    assert done.returncode == 0, done.stderr
    assert ("no validation split" in done.stdout) == (line is not None)
    assert (line or "") in done.stdout


def test_a_split_that_is_not_there_is_refused(tmp_path: Path, python: Python) -> None:
    done = python("-m", "dist_train", *settings(tmp_path, "checkpoint.split=validation"))
    assert done.returncode == 2
    assert (
        "checkpoint.split is validation, but the data have no such split; data.validation=0.1 makes one" in done.stderr
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("metric", "monitored"), [("not_a_number", False), ("infinite", True)])
def test_a_metric_that_is_not_finite_ends_no_run(tmp_path: Path, python: Python, metric: str, monitored: bool) -> None:
    given = [f"metrics=[accuracy, {tmp_path}/metrics.py:{metric}]"]
    given += [f"checkpoint.monitor={metric}"] if monitored else []
    for epochs in (2, 3):
        done = python("-m", "dist_train", *settings(tmp_path, *given, f"train.epochs={epochs}"))
        assert done.returncode == 0, done.stderr
    assert [line[metric] for line in read_evaluations(tmp_path)] == [None] * 3
    assert f"{metric} not finite" in done.stdout
    assert (tmp_path / "run" / "checkpoints" / "best").exists() != monitored
    evaluated = python("-m", "dist_train.evaluate", str(tmp_path / "run"), "--json")
    assert json.loads(evaluated.stdout)[metric] is None


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_metric_that_raises_at_one_batch(tmp_path: Path, on_ranks: Ranks, ranks: int) -> None:
    """Its traceback is shown without our frames, and no rank waits for the one that failed."""
    given = [f"metrics=[{tmp_path}/metrics.py:fails_once]", "train.epochs=2", "data.num_test=600"]
    done = on_ranks(ranks, "-m", "dist_train", *settings(tmp_path, *given), timeout=60)
    assert done.returncode == 1, done.stderr
    assert re.search(r"metric \S*metrics.py:fails_once.* rank 0", done.stderr)
    assert 'raise KeyError("no such class")' in done.stderr
    assert "KeyError: 'no such class'" in done.stderr
    assert "dist_train/evaluate.py" not in done.stderr


@pytest.mark.parametrize(
    ("metric", "fault"),
    [
        ("text", "a str"),
        ("of_wrong_shape", "float32 [2, 3] for 2 samples"),
        ("missing", "has no missing"),
        ("calls", "is a int"),
    ],
)
def test_what_is_no_metric_is_refused(tmp_path: Path, python: Python, metric: str, fault: str) -> None:
    given = [f"metrics=[{tmp_path}/metrics.py:{metric}]", "train.epochs=1"]
    done = python("-m", "dist_train", *settings(tmp_path, *given))
    assert done.returncode == 2, done.stdout + done.stderr
    assert fault in done.stderr
    assert "Traceback" not in done.stderr


def test_sums_of_a_metric_are_those_of_every_sample(tmp_path: Path, on_ranks: Ranks) -> None:
    """The same bits of the weights lead to the same bits of the evaluation."""
    found = set()
    for ranks in (1, 2, 4):
        directory = tmp_path / str(ranks)
        directory.mkdir()
        given = [f"metrics=[accuracy, {directory}/metrics.py:class_sum]", "train.max_steps=1", "data.num_test=600"]
        given += ["run.reproducible=bitwise", "loss.args.weight=[1, 2, 0.5]"]
        done = on_ranks(ranks, "-m", "dist_train", *settings(directory, *given))
        assert done.returncode == 0, done.stderr
        (line,) = read_evaluations(directory)
        assert math.isfinite(line["class_sum"])
        found.add(json.dumps({name: value for name, value in line.items() if name != "time"}))
    assert len(found) == 1
