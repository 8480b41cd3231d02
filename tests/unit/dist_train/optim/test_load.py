"""An optimizer continues from a checkpoint, whatever its kind and groups; another state is refused."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dist_train.errors import CheckpointError
from dist_train.optim.build import CLASSES, build_optimizer
from dist_train.optim.load import load_optimizer
from dist_train.settings.schema.optim import SGD, Adamax, Muon, Optim
from tests.unit.dist_train.optim.in_torch import OPTIMIZERS, settings_of

GROUPS = ({"match": ("norm.*",), "weight_decay": 0.0}, {"match": ("*.bias",), "lr": 0.02})
CASES = pytest.mark.parametrize("section", OPTIMIZERS, ids=lambda section: section.__name__)


class Net(nn.Module):
    """Parameters of no dimension to four."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm, self.fc = nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Linear(12, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.fc(self.norm(self.conv(inputs)).tanh().flatten(1))  # type: ignore[no-any-return]


def configure(section: type[Optim], *groups: dict[str, Any], **more: Any) -> Optim:
    offered = section.group_fields()
    kept = [{key: value for key, value in group.items() if key == "match" or key in offered} for group in groups]
    return section.model_validate({**settings_of(section), **more, "groups": tuple(kept)})


def step(network: nn.Module, optimizer: Optimizer, count: int = 2) -> None:
    for number in range(count):
        network.zero_grad()
        images = torch.linspace(-1, 1 + number, 5 * 18).view(5, 2, 3, 3)
        network(images).square().mean().backward()
        optimizer.step()


def trained(config: Optim) -> tuple[Net, Optimizer, dict[str, Any]]:
    """A network after some steps, its optimizer, and what a checkpoint has of that."""
    network = Net()
    optimizer = build_optimizer(config, network)
    step(network, optimizer)
    return network, optimizer, copy.deepcopy(optimizer.state_dict())


@CASES
@pytest.mark.parametrize("groups", [(), GROUPS], ids=["one group", "groups"])
def test_the_next_steps_are_those_of_the_first(section: type[Optim], groups: tuple[dict[str, Any], ...]) -> None:
    config = configure(section, *groups)
    network, optimizer, saved = trained(config)
    second = copy.deepcopy(network)
    resumed = build_optimizer(config, second)
    load_optimizer(resumed, saved, step=2)
    for each, its in ((network, optimizer), (second, resumed)):
        step(each, its)
    for name, parameter in second.named_parameters():
        assert torch.equal(parameter, network.get_parameter(name)), name


class WithoutDefaults(torch.optim.Adamax):
    """An optimizer of this program whose arguments have no defaults."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


def test_an_optimizer_without_default_arguments_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLASSES, "adamax", WithoutDefaults)
    test_the_next_steps_are_those_of_the_first(Adamax, GROUPS)


def changes(value: Any, parameter: Tensor) -> Iterator[Any]:
    """Values that no optimizer keeps in the place of another."""
    tensor = value if isinstance(value, Tensor) else torch.tensor(float(value))
    yield torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else torch.tensor(torch.nan)
    yield torch.zeros(tensor.numel() + 1)
    if tensor.dim() > 0 and tensor.shape == parameter.shape:
        yield tensor.to(torch.complex64)
    if isinstance(value, Tensor):
        yield 1
    yield [1.0]
    yield "a"


@CASES
def test_every_value_of_a_state_is_checked(section: type[Optim]) -> None:
    config = configure(section, *GROUPS)
    _, optimizer, saved = trained(config)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    seen = 0
    for number, state in saved["state"].items():
        for name, value in state.items():
            for other in changes(value, parameters[number]) if value is not None else ():
                spoiled = {**saved, "state": {**saved["state"], number: {**state, name: other}}}
                with pytest.raises(CheckpointError, match=rf"^training\.pt: its optimizer does not fit: {name}"):
                    load_optimizer(build_optimizer(config, Net()), spoiled, step=2)
                seen += 1
        if state:
            spoiled = {**saved, "state": {**saved["state"], number: {"a": 1}}}
            with pytest.raises(CheckpointError, match=r"^training\.pt: its optimizer does not fit: .* lack"):
                load_optimizer(build_optimizer(config, Net()), spoiled, step=2)
    assert seen >= 4 * len(parameters)
    with pytest.raises(CheckpointError, match="it has a parameter 99, and the network has 7"):
        load_optimizer(build_optimizer(config, Net()), {**saved, "state": {99: {}}}, step=2)


@pytest.mark.parametrize("section", [SGD, Muon])
def test_what_a_group_sets_may_change(section: type[Optim]) -> None:
    _, _, saved = trained(configure(section, *GROUPS))
    changed = configure(section, GROUPS[0], {"match": ("*.bias",), "lr": 0.5, "weight_decay": 0.4}, lr=0.3)
    optimizer = build_optimizer(configure(section, GROUPS[0], {**GROUPS[1], "lr": 0.5}, lr=0.3), Net())
    load_optimizer(optimizer, saved, step=2)
    assert {group["lr"] for group in optimizer.param_groups} >= {0.3, 0.5}
    assert changed.groups != configure(section, *GROUPS).groups


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        ((), GROUPS, "norm.weight"),
        (GROUPS, (), "norm.weight"),
        (GROUPS, ({"match": ("norm.*", "fc.weight"), "weight_decay": 0.0}, GROUPS[1]), "fc.weight"),
        # Groups of the same sizes, with other parameters.
        (({"match": ("conv.weight",), "lr": 0.1},), ({"match": ("fc.weight",), "lr": 0.1},), "conv.weight, fc.weight"),
    ],
    ids=["new groups", "no groups", "one more", "as many"],
)
@pytest.mark.parametrize("section", [SGD, Muon])
def test_a_parameter_can_t_go_to_another_group(
    section: type[Optim], before: tuple[dict[str, Any], ...], now: tuple[dict[str, Any], ...], names: str
) -> None:
    _, _, saved = trained(configure(section, *before))
    with pytest.raises(CheckpointError) as refusal:
        load_optimizer(build_optimizer(configure(section, *now), Net()), saved, step=2, file="a/training.pt")
    assert str(refusal.value).startswith("a/training.pt: optim.groups: ")
    assert all(name in str(refusal.value).partition(" had another group")[0] for name in names.split(", "))


def test_a_frozen_parameter_that_was_trained_is_named() -> None:
    _, _, saved = trained(configure(SGD))
    network = Net()
    network.scale.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"optim\.groups: scale had another group, or none"):
        load_optimizer(build_optimizer(configure(SGD), network), saved, step=2)


def test_a_checkpoint_of_an_earlier_version_has_one_group_without_names() -> None:
    config = configure(SGD)
    _, _, saved = trained(config)
    del saved["param_groups"][0]["param_names"]
    load_optimizer(build_optimizer(config, Net()), saved, step=2)
    with pytest.raises(CheckpointError, match="it is of other parameters"):
        load_optimizer(build_optimizer(configure(SGD, *GROUPS), Net()), saved, step=2)
