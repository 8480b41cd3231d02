"""What follows from evaluations, against torch's scheduler with its state."""

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dist_train.optim.lr_schedule import LrSchedule
from dist_train.optim.plateau import ends_early, find_lr_factor
from dist_train.settings.schema import EarlyStopping
from dist_train.settings.schema.optim import SGD, Plateau

PLATEAUS: list[dict[str, Any]] = [
    {},
    {"patience": 0, "factor": 0.5},
    {"patience": 2, "cooldown": 3, "factor": 0.3},
    {"patience": 1, "min_delta": 0.2, "min_lr": 0.01},
]


def draw_values(seed: int) -> list[float]:
    values: list[float] = torch.rand(40, generator=torch.Generator().manual_seed(seed)).tolist()
    if seed % 2:
        values[::3], values[::5], values[::11] = [0.5] * 14, [math.nan] * 8, [math.inf] * 4
    return values


@pytest.mark.parametrize("settings", PLATEAUS, ids=str)
@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_rates_are_those_of_torch_s_scheduler(settings: dict[str, Any], higher_is_better: bool, seed: int) -> None:
    plateau = Plateau(**settings)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = ReduceLROnPlateau(
        optimizer, mode="max" if higher_is_better else "min", factor=plateau.factor, patience=plateau.patience,
        threshold=plateau.min_delta, threshold_mode="abs", cooldown=plateau.cooldown, min_lr=plateau.min_lr, eps=0.0,
    )  # fmt: skip
    rates = LrSchedule(SGD(name="sgd", lr=0.5, plateau=plateau), 1, 100)
    ours = torch.optim.SGD([{"params": [torch.zeros(1)], "initial_lr": 0.5, "schedule": "constant"}], lr=0.5)
    values = draw_values(seed)
    for count, value in enumerate(values, start=1):
        scheduler.step(value)
        reduction = find_lr_factor(values[:count], plateau, higher_is_better)
        found = rates.set_rates(ours, count, reduction)
        assert found == ours.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([], False),
        ([0.5], False),
        ([0.5, 0.5], False),
        ([0.5, 0.5, 0.4], True),
        ([0.5, 0.4, 0.6], False),
        ([0.5, 0.4, 0.4, 0.6], False),
        ([math.nan, math.nan], True),
        ([0.5, math.nan, math.inf], False),
    ],
)
def test_a_run_ends_after_evaluations_without_improvement(values: list[float], ends: bool) -> None:
    assert ends_early(values, EarlyStopping(patience=2), higher_is_better=True) is ends
    assert ends_early([-value for value in values], EarlyStopping(patience=2), higher_is_better=False) is ends


def test_a_small_change_is_no_improvement() -> None:
    values = [0.5, 0.55, 0.58]
    assert not ends_early(values, EarlyStopping(patience=2), higher_is_better=True)
    assert ends_early(values, EarlyStopping(patience=2, min_delta=0.1), higher_is_better=True)


def test_without_settings_nothing_follows() -> None:
    assert find_lr_factor([0.5] * 50, None, higher_is_better=True) == 1.0
    assert not ends_early([0.5] * 50, None, higher_is_better=True)
