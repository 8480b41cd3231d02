"""Samples of numbers become points where each has one true number."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train import load_config, train
from dist_train.data.identity import TableFormat
from dist_train.results.points import find_points, to_points

ONE = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("inputs", "targets", "output", "columns"),
    [
        (ONE.view(2, 1), ONE, ONE.view(2, 1), 1),
        (ONE, ONE.view(2, 1), ONE, 1),
        (torch.zeros(2, 3), ONE, None, 3),
        (torch.zeros(2, 13), ONE, None, 0),
        (torch.zeros(2, 1, 8, 8), ONE, ONE, 0),
        ((ONE, ONE), ONE, ONE, 0),
        (ONE, torch.tensor([1, 2]), None, None),
        (ONE, torch.zeros(2, 2), None, None),
        (ONE, ONE, torch.zeros(2, 2), None),
        (ONE, {"a": ONE}, ONE, None),
    ],
)
def test_points_are_made_of_samples_of_one_number(inputs: Any, targets: Any, output: Any, columns: int | None) -> None:
    points = to_points(inputs, targets, output)
    if columns is None:
        assert points is None
        return
    assert points is not None
    assert points.truths.tolist() == [1, 2]
    assert (0 if points.inputs is None else points.inputs.shape[1]) == columns
    assert (points.predictions is None) == (output is None)


def test_a_run_of_a_line_has_its_points_and_one_without_checkpoints_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(load_config("line", [f"run.dir={tmp_path / 'line'}", "train.epochs=60"])).run_dir
    points = find_points(run, trust_code=False)
    assert points is not None
    assert points.inputs is not None
    assert points.predictions is not None
    assert points.inputs.shape[1] == 1
    assert abs(points.truths - points.predictions).mean() < 1
    for path in (run / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    assert find_points(run, trust_code=False) is None
    assert "there is no panel of predictions: " in caplog.text


def test_names_are_those_of_the_table() -> None:
    table = TableFormat(("age", "$x$"), "price", (0.0, 0.0), (1.0, 1.0))
    points = to_points(torch.zeros(2, 2), ONE, table=table)
    assert points is not None
    assert (points.columns, points.target) == (("age", "$x$"), "price")
