"""The graph of a network has what a pass calls, and recording it changes nothing."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_train.execution.cpu_layers import use_fast_cpu_layers
from dist_train.models import MODELS
from dist_train.training.graph import record_graph


class Restless(nn.Module):
    """Draws from all generators, counts its passes, and has a buffer, a dictionary and an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.heads = nn.BatchNorm1d(4), nn.ModuleDict({"a/b:^": nn.Linear(4, 2), "c": nn.Linear(4, 2)})
        self.unused, self.scale = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(4))
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        self.get_buffer("passes").add_(1)
        x = self.norm(inputs["x"] + torch.rand_like(inputs["x"]) * random.random() * np.random.random())  # noqa: S311
        x = functional.dropout((x * self.scale).T.T, training=True)
        x += 1
        return {name: head(functional.relu(x)) for name, head in self.heads.items()}


class Failing(nn.Module):
    """Draws, and fails."""

    def forward(self, inputs: Tensor) -> Tensor:
        raise ValueError(f"{torch.rand(2)} {random.random()} {np.random.random()} {inputs}")  # noqa: S311


def generators() -> Any:
    numpy: Any = np.random.get_state()
    return random.getstate(), [*map(str, numpy[1]), numpy[2]], torch.get_rng_state().tolist()


def test_recording_changes_neither_the_network_nor_a_generator() -> None:
    network = Restless().train()
    before, drawn = copy.deepcopy(network.state_dict()), generators()
    nodes = record_graph(network, {"x": torch.zeros(3, 4)})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert generators() == drawn
    assert network.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    by_name = {node.name: node for node in nodes}
    assert {name for name in by_name if by_name[name].operation == "Parameter"} == {
        *("scale", "norm/weight", "norm/bias"),
        *(f"heads/{name}/{part}" for name in ("a_b__", "c") for part in ("weight", "bias")),
    }
    assert by_name["heads/c/linear"].inputs == ("relu_2", "heads/c/weight", "heads/c/bias")
    assert by_name["heads/c/linear"].shape == (3, 2)
    assert by_name["output"].inputs == ("heads/a_b__/linear", "heads/c/linear")


@pytest.mark.parametrize("name", MODELS)
def test_graphs_of_our_networks_are_connected_and_have_all_parameters(name: str) -> None:
    shape = (3, 32, 32) if name in ("cifar_tutorial", "resnet18") else (1, 28, 28)
    network = MODELS[name](shape=shape, num_classes=10)
    use_fast_cpu_layers(network)
    nodes = record_graph(network, torch.zeros(2, *shape))
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    known: set[str] = set()
    for node in nodes:
        assert set(node.inputs) <= known, node
        known.add(node.name)
    used = {source for node in nodes for source in node.inputs}
    assert known - used == {names[-1]}
    assert sum(node.operation == "Parameter" for node in nodes) == len(list(network.parameters()))
    (last,) = nodes[-1].inputs
    assert next(node.shape for node in nodes if node.name == last) == (2, 10)


def test_a_network_that_fails_leaves_the_generators_as_they_were() -> None:
    drawn = generators()
    with pytest.raises(ValueError, match="tensor"):
        record_graph(Failing(), torch.zeros(2, 4))
    assert generators() == drawn
