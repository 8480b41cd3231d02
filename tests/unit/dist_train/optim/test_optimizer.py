"""Learning rates and updates against torch's own, and the average of weights against its closed form."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from dist_train.optim.optimizer import Average, build_optimizer, lr_at
from dist_train.settings import schema as settings
from dist_train.settings.schema import SGD, Config, Optim, section_classes

OPTIMIZERS = [each for each in section_classes(Config.model_fields["optim"].annotation) if issubclass(each, Optim)]
STEPS_PER_EPOCH, TOTAL = 7, 70


def sgd(**arguments: Any) -> SGD:
    return SGD(name="sgd", **{"lr": 0.4, **arguments})


def rates(config: Optim, total: int = TOTAL) -> list[float]:
    return [lr_at(config, step, STEPS_PER_EPOCH, total) for step in range(total)]


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
    sgd(schedule="onecycle"),
]


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda config: config.schedule)
def test_a_rate_is_a_function_of_the_step_alone(config: SGD) -> None:
    forward = rates(config)
    backward = [lr_at(config, step, STEPS_PER_EPOCH, TOTAL) for step in reversed(range(TOTAL))]
    assert backward == forward[::-1]


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda config: config.schedule)
@pytest.mark.parametrize("total", [1, 2, 3, 4])
def test_a_very_short_run_has_sane_rates(config: SGD, total: int) -> None:
    assert all(0 <= lr_at(config, step, 1, total) <= config.lr for step in range(total))


# Arguments other than the defaults, so that none can be lost on the way.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "Adam": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True},
    "Adagrad": {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.2, "eps": 1e-3},
    "RMSprop": {"alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.9, "centered": True},
    "Adadelta": {"rho": 0.8, "eps": 1e-3, "weight_decay": 0.1},
    "Adamax": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    "NAdam": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.01},
    "RAdam": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "decoupled_weight_decay": True},
    "ASGD": {"lambd": 0.1, "alpha": 0.5, "t0": 2.0, "weight_decay": 0.1},
    "Rprop": {"etas": (0.4, 1.3), "step_sizes": (1e-4, 0.1)},
}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 8) -> Tensor:
    images = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("section", OPTIMIZERS, ids=lambda section: section.__name__)
def test_an_optimizer_steps_as_torch_s_does(section: type[Optim]) -> None:
    name, arguments = section.__name__, {"lr": 0.05, **ARGUMENTS[section.__name__]}
    ours, theirs = network(), network()
    config = section.model_validate({"name": name.lower(), **arguments})
    expected = stepped(theirs, getattr(torch.optim, name)(theirs.parameters(), **arguments))
    # Torch's ASGD keeps its own step size in fp32 where it updates in groups; the others agree to 1e-12.
    torch.testing.assert_close(stepped(ours, build_optimizer(config, ours)), expected, rtol=1e-7, atol=1e-9)
    assert not torch.allclose(expected, nn.utils.parameters_to_vector(network().parameters()))


@pytest.mark.parametrize("section", OPTIMIZERS, ids=lambda section: section.__name__)
def test_an_optimizer_that_will_be_compiled_has_its_rate_in_a_tensor(section: type[Optim]) -> None:
    ours, plain = network(), network()
    config = section.model_validate({"name": section.__name__.lower(), "lr": 0.05})
    optimizer = build_optimizer(config, ours, compiled=True)
    assert isinstance(optimizer.param_groups[0]["lr"], Tensor)
    expected = stepped(plain, build_optimizer(config, plain))
    # The rate is an fp32 tensor; a lost or doubled one would be off by far more.
    torch.testing.assert_close(stepped(ours, optimizer), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("section", OPTIMIZERS, ids=lambda section: section.__name__)
def test_the_table_of_arguments_is_torch_s(section: type[Optim]) -> None:
    """Every argument of ours is one of torch's with the same default, and none of its numbers is missing."""
    ours = section.model_validate({"name": section.__name__.lower()}).arguments()
    parameters = inspect.signature(getattr(torch.optim, section.__name__)).parameters
    how_it_runs = {"params", "foreach", "fused", "capturable", "differentiable", "maximize"}
    assert ours == {name: parameter.default for name, parameter in parameters.items() if name not in how_it_runs}


def test_every_optimizer_of_torch_that_fits_is_there() -> None:
    assert {section.__name__ for section in OPTIMIZERS} == set(ARGUMENTS)
    assert all(getattr(settings, name) in OPTIMIZERS for name in ARGUMENTS)


def test_frozen_weights_are_left_out() -> None:
    model = network()
    next(model.parameters()).requires_grad_(False)
    (group,) = build_optimizer(sgd(), model).param_groups
    assert len(group["params"]) == 3


def test_the_average_has_its_closed_form() -> None:
    model, decay, steps = network(), 0.9, 12
    average = Average(model, decay)
    history = [nn.utils.parameters_to_vector(model.parameters()).detach().clone()]
    optimizer = build_optimizer(sgd(lr=0.01), model)
    for _ in range(steps):
        history.append(stepped(model, optimizer, steps=1).clone())
        average.update()
    expected = decay**steps * history[0]
    for step, weights in enumerate(history[1:], start=1):
        expected = expected + (1 - decay) * decay ** (steps - step) * weights
    found = nn.utils.parameters_to_vector(average.network.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()).detach(), history[-1])
    assert not any(weight.requires_grad for weight in average.network.parameters())


def test_the_average_has_the_newest_buffers() -> None:
    model = nn.BatchNorm1d(3)
    average = Average(model, 0.9)
    for _ in range(3):
        model(torch.randn(8, 3) + 5)
        average.update()
    for (name, found), expected in zip(average.network.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(found, expected), name
    assert int(average.network.get_buffer("num_batches_tracked")) == 3
