"""Updates against torch's own optimizers, and the table of their arguments."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_train.optim.build import build_optimizer
from dist_train.settings import schema as settings
from dist_train.settings.schema import SGD, Config, Optim, section_classes

OPTIMIZERS = [each for each in section_classes(Config.model_fields["optim"].annotation) if issubclass(each, Optim)]
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
def test_the_table_of_arguments_is_torch_s(section: type[Optim]) -> None:
    """Every argument of ours is one of torch's with the same default, and none of its numbers is missing."""
    ours = section.model_validate({"name": section.__name__.lower()}).arguments()
    parameters = inspect.signature(getattr(torch.optim, section.__name__)).parameters
    how_it_runs = {"params", "foreach", "fused", "capturable", "differentiable", "maximize"}
    assert ours == {name: parameter.default for name, parameter in parameters.items() if name not in how_it_runs}


class LateLayer(nn.Module):
    """A network with a layer that takes part from the second pass on."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.always, self.late = nn.Linear(3, 3), nn.Linear(3, 3)
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        hidden = self.always(images).tanh()
        return self.late(hidden) if self.passes > 1 else hidden  # type: ignore[no-any-return]


def train_late_layer(optimizer: torch.optim.Optimizer, model: nn.Module, scaled: bool, overflows: int) -> Tensor:
    """Make some steps, the first ones with infinite gradients if a scaler skips them."""
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=8.0)
    for step in range(6):
        optimizer.zero_grad(set_to_none=True)
        loss = model(torch.linspace(-1, 1, 12).view(4, 3)).square().sum()
        scaler.scale(loss * torch.inf if scaled and step < overflows else loss).backward()
        if not scaled and step < overflows:
            continue
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("overflows", [0, 1, 2])
@pytest.mark.parametrize("section", OPTIMIZERS, ids=lambda section: section.__name__)
def test_a_scaler_and_a_parameter_without_a_first_gradient_go_together(section: type[Optim], overflows: int) -> None:
    """Steps with a scaler are those without, less the ones that overflow."""
    name, arguments = section.__name__, {"lr": 0.05, **ARGUMENTS[section.__name__]}
    config = section.model_validate({"name": name.lower(), **arguments})
    ours, plain = LateLayer(), LateLayer()
    found = train_late_layer(build_optimizer(config, ours), ours, scaled=True, overflows=overflows)
    expected = train_late_layer(
        getattr(torch.optim, name)(plain.parameters(), foreach=False, **arguments),
        plain,
        scaled=False,
        overflows=overflows,
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_optimizer_of_torch_that_fits_is_there() -> None:
    assert {section.__name__ for section in OPTIMIZERS} == set(ARGUMENTS)
    assert all(getattr(settings, name) in OPTIMIZERS for name in ARGUMENTS)


def test_frozen_weights_are_left_out() -> None:
    model = network()
    next(model.parameters()).requires_grad_(False)
    (group,) = build_optimizer(SGD(name="sgd"), model).param_groups
    assert len(group["params"]) == 3


class Muon(Optim):
    """An optimizer of torch with neither a fused nor a foreach kernel."""

    weight_decay: float = 0.1


def test_an_optimizer_without_kernels_for_all_parameters_is_built() -> None:
    matrices = nn.Sequential(nn.Linear(3, 5, bias=False), nn.Linear(5, 2, bias=False))
    optimizer = build_optimizer(Muon(name="muon", lr=0.02), matrices)
    assert isinstance(optimizer, torch.optim.Muon)
    assert optimizer.param_groups[0]["lr"] == 0.02
