"""Metrics of regression are those of scikit-learn, of one batch or many."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn import metrics
from torch import Tensor

from dist_train.settings.loader import load_config
from dist_train.tasks import build_task


def evaluate(tmp_path: Path, output: Tensor, targets: Tensor, size: int) -> Any:
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: synthetic}\nmodel: {name: lenet}\ntask: regression\n")
    task = build_task(load_config(path), ())
    task.try_out(output[:2].detach().requires_grad_(), targets[:2], 2)
    parts = list(zip(torch.split(output, size), torch.split(targets, size), strict=True))
    sums = task.open_evaluation(len(parts), torch.device("cpu"))
    for number, (one, other) in enumerate(parts):
        sums.add(number, one, other, len(one))
    return sums.result("test").to_dict()


@pytest.mark.parametrize("size", [1, 3, 20])
@pytest.mark.parametrize("shape", [(20,), (20, 1), (20, 3)], ids=str)
def test_metrics_of_regression(tmp_path: Path, shape: tuple[int, ...], size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = 1e6 + torch.randn(shape, generator=generator, dtype=torch.float64)
    output = targets + torch.randn(shape, generator=generator, dtype=torch.float64)
    found = evaluate(tmp_path, output, targets, size)
    assert list(found) == ["split", "loss", "rmse", "mae", "r2", "count"]
    assert found["count"] == 20
    assert found["rmse"] == pytest.approx(metrics.mean_squared_error(targets, output) ** 0.5, rel=1e-12)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(targets, output), rel=1e-12)
    assert found["r2"] == pytest.approx(metrics.r2_score(targets, output), rel=1e-9)


def test_metrics_of_complex_numbers(tmp_path: Path) -> None:
    """As of points in the plane."""
    generator = torch.Generator().manual_seed(0)
    targets, output = torch.randn(2, 20, dtype=torch.complex128, generator=generator).unbind()
    found = evaluate(tmp_path, output, targets, 6)
    distance = (output - targets).abs()
    spread = (targets - targets.mean()).abs().square().sum()
    assert found["rmse"] == pytest.approx(distance.square().mean().sqrt().item())
    assert found["mae"] == pytest.approx(distance.mean().item())
    assert found["r2"] == pytest.approx((1 - distance.square().sum() / spread).item())


def test_samples_of_several_lengths_are_taken_number_by_number(tmp_path: Path) -> None:
    targets, output = torch.randn(2, 20, 3, 2, dtype=torch.float64).unbind()
    found = evaluate(tmp_path, output, targets, 6)
    assert found["r2"] == pytest.approx(metrics.r2_score(targets.flatten(), output.flatten()), rel=1e-9)


def test_a_constant_target_has_no_r2(tmp_path: Path) -> None:
    assert evaluate(tmp_path, torch.randn(8), torch.ones(8), 3)["r2"] is None
