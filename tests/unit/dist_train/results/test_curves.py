"""Curves of runs are read from metrics.jsonl, restarts from the log that a run itself writes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.monitoring.console import log_to_file
from dist_train.results.curves import TRAINING, Curve, read_all_curves, read_curves


def train_line(step: int, loss: float = 0.5) -> str:
    line = {"kind": "train", "step": step, "epoch": 0, "loss": loss, "lr": 0.1, "samples_per_second": 9.0, "time": 1.0}
    return json.dumps(line) + "\n"


def eval_line(step: int, split: str = "test", **numbers: object) -> str:
    line = {"kind": "eval", "split": split, "step": step, "epoch": 0, "count": 2, "time": 1.0, "loss": 0.5, **numbers}
    return json.dumps(line) + "\n"


def make_run(path: Path, *lines: str) -> Path:
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(lines))
    return path


def test_numbers_are_read_by_name_and_where_they_are_from(tmp_path: Path) -> None:
    lines = [train_line(1), train_line(2, math.nan), '{"kind": "train"\n', "\0\n", eval_line(2, accuracy=None)]
    run = make_run(tmp_path / "run", *lines, eval_line(2, "validation", accuracy=0.5, per_class={"a": 1}))
    found = read_curves(run, "label")
    assert set(found.curves) == {
        *((name, TRAINING) for name in ("loss", "lr", "samples_per_second")),
        *((name, split) for name in ("loss", "accuracy") for split in ("validation", "test")),
    }
    assert str(found.curves["loss", TRAINING].values.tolist()) == "[0.5, nan]"
    assert math.isnan(found.curves["accuracy", "test"].values[0])
    assert found.curves["accuracy", "validation"].steps.tolist() == [2]


def test_restarts_are_those_of_the_log(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", train_line(5), train_line(90))
    for step in (0, 0, 40, 7, 90):
        with log_to_file(run / "logs", World(), step):
            pass
    assert read_curves(run, "run").restarts == (40, 7)


def test_what_is_no_run_or_can_not_be_read_is_refused_and_an_empty_one_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_run(tmp_path / "whole", train_line(1))
    empty = make_run(tmp_path / "empty")
    strange = tmp_path / "strange"
    (strange / "metrics.jsonl").mkdir(parents=True)
    for path, why in (
        (tmp_path, "has no metrics.jsonl; give a directory below runs/"),
        (whole / "metrics.jsonl", "is not a run: it has no metrics.jsonl"),
        (strange, "can't be read: Is a directory"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_curves(path, "label")
    with pytest.raises(ConfigError, match="nothing to draw yet"):
        read_all_curves([("empty", empty)])
    assert [run.label for run in read_all_curves([("empty", empty), ("whole", whole)])] == ["whole"]
    assert "empty: has no numbers yet" in caplog.text


@pytest.mark.parametrize("count", [1, 1000, 1001, 54_321])
def test_many_points_become_few_with_their_mean_and_range(count: int) -> None:
    curve = Curve()
    for step in range(1, count + 1):
        curve.add(step, step % 10)
    shown = curve.thin()
    assert len(shown.steps) <= 1000
    assert (np.diff(shown.steps) > 0).all()
    if count > 1000:
        assert shown.low is not None
        assert shown.high is not None
        assert (shown.low <= shown.values).all()
        assert (shown.values <= shown.high).all()
        assert shown.values.mean() == pytest.approx(4.5, abs=0.1)


def test_thinning_keeps_a_gap_where_a_number_was_not_finite() -> None:
    curve = Curve()
    for step in range(5000):
        curve.add(step, math.inf if step == 2000 else 1.0)
    shown = curve.thin()
    assert np.isnan(shown.values).sum() == 1
    assert shown.low is not None
    assert (shown.low == 1).all()
