"""Updates against torch's own optimizers, and the table of their arguments."""

import inspect

import pytest
import torch
from torch import Tensor, nn

from dist_train.errors import ConfigError
from dist_train.optim.build import build_optimizer
from dist_train.settings.schema.optim import SGD, UNSUPPORTED_NAMES, Muon, Optim
from tests.unit.dist_train.optim.in_torch import ARGUMENTS, IN_TORCH, build_plain, settings_of


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def stepped(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 8) -> Tensor:
    images = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    for _ in range(steps):
        model.zero_grad()
        model(images).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("section", IN_TORCH, ids=lambda section: section.__name__)
def test_an_optimizer_steps_as_torch_s_does(section: type[Optim]) -> None:
    ours, theirs = network(), network()
    config = section.model_validate(settings_of(section))
    expected = stepped(theirs, *build_plain(section, theirs))
    # Torch's ASGD keeps its own step size in fp32 where it updates in groups; the others agree to 1e-12.
    torch.testing.assert_close(stepped(ours, build_optimizer(config, ours)), expected, rtol=1e-7, atol=1e-9)
    assert not torch.allclose(expected, nn.utils.parameters_to_vector(network().parameters()))


@pytest.mark.parametrize("section", IN_TORCH, ids=lambda section: section.__name__)
def test_the_table_of_arguments_is_torch_s(section: type[Optim]) -> None:
    """Every argument of ours is one of torch's with the same default, and none of its numbers is missing."""
    ours = section.model_validate({"name": section.__name__.lower()}).arguments()
    parameters = inspect.signature(getattr(torch.optim, section.__name__)).parameters
    how_it_runs = {"params", "foreach", "fused", "capturable", "differentiable", "maximize"}
    assert ours == {name: parameter.default for name, parameter in parameters.items() if name not in how_it_runs}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_complex_weights_are_updated_as_by_torch(name: str) -> None:
    """Torch's fused kernels refuse them."""
    networks = [nn.Linear(3, 2, dtype=torch.complex64) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    section = next(each for each in IN_TORCH if each.__name__.lower() == name)
    config = section.model_validate({"name": name, "lr": 0.1})
    plain = getattr(torch.optim, section.__name__)(networks[1].parameters(), **config.arguments())
    for network, optimizer in zip(networks, (build_optimizer(config, networks[0]), plain), strict=True):
        network(torch.ones(4, 3, dtype=torch.complex64)).abs().sum().backward()
        optimizer.step()
    torch.testing.assert_close(networks[0].state_dict(), networks[1].state_dict())


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


def train_late_layer(model: nn.Module, *optimizers: torch.optim.Optimizer, scaled: bool, overflows: int) -> Tensor:
    """Make some steps, the first ones with infinite gradients if a scaler skips them."""
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=8.0)
    for step in range(6):
        model.zero_grad(set_to_none=True)
        loss = model(torch.linspace(-1, 1, 12).view(4, 3)).square().sum()
        scaler.scale(loss * torch.inf if scaled and step < overflows else loss).backward()
        if not scaled and step < overflows:
            continue
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
        scaler.update()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("overflows", [0, 1, 2])
@pytest.mark.parametrize("section", IN_TORCH, ids=lambda section: section.__name__)
def test_a_scaler_and_a_parameter_without_a_first_gradient_go_together(section: type[Optim], overflows: int) -> None:
    """Steps with a scaler are those without, less the ones that overflow."""
    config = section.model_validate(settings_of(section))
    ours, plain = LateLayer(), LateLayer()
    found = train_late_layer(ours, build_optimizer(config, ours), scaled=True, overflows=overflows)
    expected = train_late_layer(plain, *build_plain(section, plain, foreach=False), scaled=False, overflows=overflows)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_optimizer_of_torch_is_there_or_refused_with_a_reason() -> None:
    in_torch = {name for name, kind in vars(torch.optim).items() if isinstance(kind, type)} - {"Optimizer"}
    offered = {section.__name__ for section in IN_TORCH}
    refused = set(UNSUPPORTED_NAMES["optim.name"])
    assert offered == set(ARGUMENTS)
    assert {name for name in in_torch if name.lower() not in refused} == offered


def test_frozen_weights_are_left_out() -> None:
    model = network()
    next(model.parameters()).requires_grad_(False)
    (group,) = build_optimizer(SGD(name="sgd"), model).param_groups
    assert len(group["params"]) == 3


def test_a_network_without_a_trained_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match="none of its 4 parameters takes a gradient"):
        build_optimizer(SGD(name="sgd"), network().requires_grad_(False))


def test_a_group_that_dampens_is_not_fused() -> None:
    config = SGD.model_validate({"name": "sgd", "momentum": 0.9, "groups": ({"match": ("0.*",), "dampening": 0.5},)})
    optimizer = build_optimizer(config, network())
    assert not any(group.get("fused") for group in optimizer.param_groups)
    assert not optimizer.state


def test_muon_and_the_optimizer_of_the_rest_are_one_with_a_common_state() -> None:
    model = network()
    optimizer = build_optimizer(Muon(name="muon"), model)
    stepped(model, optimizer, steps=1)
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["0.weight", "2.weight"],
        ["0.bias", "2.bias"],
    ]
    assert set(optimizer.state) == set(model.parameters())
    assert len(optimizer.state_dict()["state"]) == 4
