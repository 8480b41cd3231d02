"""Fully connected layers take the width of their inputs from the data, and are those of the lessons."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_train.checkpoint.serialization import load_weights
from dist_train.errors import ConfigError
from dist_train.models import build_model, give_shapes
from dist_train.models.mlp import ACTIVATIONS
from dist_train.settings.schema import MLP


def build(example: Any, num_classes: int = 0, seed: int = 0, **settings: Any) -> nn.Module:
    return build_model(MLP(name="mlp", **settings), None, num_classes, seed, example)


@pytest.mark.parametrize(
    ("example", "width"),
    [
        (torch.zeros(1, 1, 28, 28), 784),
        (torch.zeros(1, 13), 13),
        (torch.zeros(1), 1),
        (torch.zeros(1, 2, dtype=torch.int64), 2),
    ],
    ids=["image", "row", "number", "whole numbers"],
)
@pytest.mark.parametrize(("num_classes", "outputs"), [(10, 10), (0, 1)])
def test_its_width_is_that_of_the_data(example: Tensor, width: int, num_classes: int, outputs: int) -> None:
    network = build(example, num_classes, hidden=(5, 4))
    shapes = [list(weight.shape) for weight in network.parameters()]
    assert shapes == [[5, width], [5], [4, 5], [4], [outputs, 4], [outputs]]
    assert network(example.expand(3, *example.shape[1:])).shape == (3, outputs)
    assert network(example[:0]).shape == (0, outputs)
    assert network.training


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_its_weights_load_into_the_lesson_s_sequential(activation: str) -> None:
    ours = build(torch.zeros(1, 1), hidden=(13,), activation=activation)
    lesson = nn.Sequential(nn.Linear(1, 13), ACTIVATIONS[activation](), nn.Linear(13, 1))
    lesson.load_state_dict(ours.state_dict())
    x = torch.linspace(-1, 1, 9).unsqueeze(1)
    assert torch.equal(ours(x), lesson(x))


def test_no_hidden_layer_is_a_line() -> None:
    assert (
        str(build(torch.zeros(1, 1), hidden=())) == "MLP(\n  (0): Linear(in_features=1, out_features=1, bias=True)\n)"
    )
    assert build(torch.zeros(1, 2), num_classes=0, outputs=3)(torch.zeros(4, 2)).shape == (4, 3)


def test_weights_are_loaded_without_data() -> None:
    trained = build(torch.zeros(1, 6), seed=1, dropout=0.5)
    unseen = build(None, seed=2, dropout=0.5)
    give_shapes(unseen, trained.state_dict())
    load_weights(unseen, trained.state_dict(), "model.pt")
    rows = torch.rand(5, 6)
    assert torch.equal(unseen.eval()(rows), trained.eval()(rows))


def test_what_it_can_t_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="mlp: it takes one tensor of numbers, and the samples are of the type dict"):
        build({"a": torch.zeros(1, 2)})
    with pytest.raises(ConfigError, match=r"model.outputs is 3, but the data has 10 classes"):
        build(torch.zeros(1, 2), num_classes=10, outputs=3)
