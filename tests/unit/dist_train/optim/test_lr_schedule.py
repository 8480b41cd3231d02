"""Learning rates against torch's own schedulers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from dist_train.optim.lr_schedule import LrSchedule
from dist_train.settings.schema.optim import SGD, Optim

STEPS_PER_EPOCH, TOTAL = 7, 70


def sgd(**arguments: Any) -> SGD:
    return SGD(name="sgd", **{"lr": 0.4, **arguments})


def rates(config: Optim, total: int = TOTAL) -> list[float]:
    schedule = LrSchedule(config, STEPS_PER_EPOCH, total)
    return [schedule.lr_at(step, config.lr, config.schedule) for step in range(total)]


def rates_of_torch(
    make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], total: int = TOTAL
) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    scheduler = make(optimizer)
    found = []
    for _ in range(total):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if len(found) < total:  # OneCycleLR refuses a step too many
            scheduler.step()
    return found


def test_constant() -> None:
    assert rates(sgd()) == [0.4] * TOTAL


def test_step() -> None:
    expected = rates_of_torch(lambda optimizer: lr_scheduler.StepLR(optimizer, 2 * STEPS_PER_EPOCH, gamma=0.3))
    assert rates(sgd(schedule="step", step_size=2.0, gamma=0.3)) == pytest.approx(expected, rel=1e-12)


def test_multistep() -> None:
    milestones = [STEPS_PER_EPOCH, 4 * STEPS_PER_EPOCH, 9 * STEPS_PER_EPOCH]
    expected = rates_of_torch(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5))
    assert rates(sgd(schedule="multistep", milestones=(1.0, 4.0, 9.0), gamma=0.5)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("eta_min", [0.0, 0.01])
def test_cosine(eta_min: float) -> None:
    expected = rates_of_torch(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, TOTAL, eta_min))
    assert rates(sgd(schedule="cosine", eta_min=eta_min)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("eta_min", [0.0, 0.01])
def test_cosine_with_restarts(factor: int, eta_min: float) -> None:
    expected = rates_of_torch(
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2 * STEPS_PER_EPOCH, factor, eta_min)
    )
    found = rates(sgd(schedule="cosine", restart_epochs=2.0, restart_factor=factor, eta_min=eta_min))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("schedule", "power"), [("linear", 1.0), ("polynomial", 1.0), ("polynomial", 2.5)])
def test_linear_and_polynomial(schedule: str, power: float) -> None:
    expected = rates_of_torch(lambda optimizer: lr_scheduler.PolynomialLR(optimizer, TOTAL, power))
    more = {"power": power} if schedule == "polynomial" else {}
    assert rates(sgd(schedule=schedule, **more)) == pytest.approx(expected, rel=1e-9)


def test_linear_ends_at_eta_min() -> None:
    expected = rates_of_torch(lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.1, TOTAL))
    assert rates(sgd(schedule="linear", eta_min=0.04)) == pytest.approx(expected, rel=1e-9)


def test_trapezoid_rises_stays_and_falls() -> None:
    found = rates(sgd(schedule="trapezoid", warmup_epochs=2.0, decay_fraction=0.3, eta_min=0.1))
    warmup, fall = 2 * STEPS_PER_EPOCH, 21
    assert found[:warmup] == pytest.approx([0.4 * (step + 1) / warmup for step in range(warmup)])
    assert found[warmup : TOTAL - fall] == [0.4] * (TOTAL - fall - warmup)
    assert found[TOTAL - fall :] == pytest.approx([0.4 - 0.3 * step / fall for step in range(fall)])


@pytest.mark.parametrize("total", [10, TOTAL, 333])
@pytest.mark.parametrize("more", [{}, {"pct_start": 0.5, "div_factor": 4.0, "final_div_factor": 10.0}])
def test_onecycle(total: int, more: dict[str, float]) -> None:
    expected = rates_of_torch(
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.4, total, cycle_momentum=False, **more),  # type: ignore[arg-type]
        total,
    )
    assert rates(sgd(schedule="onecycle", **more), total) == pytest.approx(expected, rel=1e-9)


def test_warmup_rises_as_linear_lr_does() -> None:
    steps = 3 * STEPS_PER_EPOCH
    expected = rates_of_torch(lambda optimizer: lr_scheduler.LinearLR(optimizer, 1 / steps, 1.0, steps - 1))
    assert rates(sgd(warmup_epochs=3.0)) == pytest.approx(expected, rel=1e-9)


def test_warmup_may_end_inside_an_epoch() -> None:
    assert rates(sgd(warmup_epochs=0.3))[:3] == pytest.approx([0.2, 0.4, 0.4])


def test_cosine_begins_where_the_warmup_ends() -> None:
    found, warmup = rates(sgd(schedule="cosine", warmup_epochs=2.0)), 2 * STEPS_PER_EPOCH
    fall = [0.2 * (1 + math.cos(math.pi * step / (TOTAL - warmup))) for step in range(TOTAL - warmup)]
    assert found[:warmup] == pytest.approx([0.4 * (step + 1) / warmup for step in range(warmup)])
    assert found[warmup:] == pytest.approx(fall)


def test_warmup_and_steps_of_the_schedule_go_together() -> None:
    found = rates(sgd(schedule="step", step_size=1.0, gamma=0.5, warmup_epochs=2.0))
    assert found[STEPS_PER_EPOCH] == pytest.approx(0.4 * 0.5 * 8 / 14)
    assert found[2 * STEPS_PER_EPOCH] == pytest.approx(0.4 * 0.25)


SCHEDULES = [
    sgd(),
    sgd(schedule="step", step_size=0.01),
    sgd(schedule="multistep", milestones=(0.1, 2.0)),
    sgd(schedule="cosine", warmup_epochs=1.5),
    sgd(schedule="cosine", restart_epochs=0.5, restart_factor=2),
    sgd(schedule="onecycle"),
    sgd(schedule="linear", warmup_epochs=1.5),
    sgd(schedule="polynomial", power=2.5),
    sgd(schedule="trapezoid", warmup_epochs=1.0, decay_fraction=0.5),
]


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda config: config.schedule)
def test_a_rate_is_a_function_of_the_step_alone(config: SGD) -> None:
    forward = rates(config)
    schedule = LrSchedule(config, STEPS_PER_EPOCH, TOTAL)
    backward = [schedule.lr_at(step, config.lr, config.schedule) for step in reversed(range(TOTAL))]
    assert backward == forward[::-1]


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda config: config.schedule)
@pytest.mark.parametrize("total", [1, 2, 3, 4])
def test_a_very_short_run_has_sane_rates(config: SGD, total: int) -> None:
    schedule = LrSchedule(config, 1, total)
    assert all(0 <= schedule.lr_at(step, config.lr, config.schedule) <= config.lr for step in range(total))
