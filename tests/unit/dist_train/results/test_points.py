"""Samples of numbers become points where each has one true number."""

from typing import Any

import pytest
import torch

from dist_train.results.points import to_points

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
