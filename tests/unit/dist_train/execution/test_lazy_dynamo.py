"""The backward pass starts as torch starts it, and names what the user's code has done to the graph."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dist_train.errors import ConfigError, OwnCodeError
from dist_train.execution import lazy_dynamo
from dist_train.execution.lazy_dynamo import backward

ONE = torch.ones(())


def keep_graph(weight: Tensor) -> Tensor:
    kept = weight.exp().sum()
    backward(kept, ONE)
    return kept * 2


def change_in_place(weight: Tensor) -> Tensor:
    output = weight.exp()
    output += 1
    return output.sum()


@pytest.fixture(params=["by the engine", "by the method"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by the method":  # as in a torch that is built differently
        monkeypatch.setattr(lazy_dynamo, "_run_backward", None)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(
    ("compute", "message"), [(keep_graph, "detach what is kept between passes"), (change_in_place, "such as x = x")]
)
def test_a_spoiled_graph_is_the_users(compute: Callable[[Tensor], Tensor], message: str) -> None:
    loss = compute(torch.ones(3, requires_grad=True))
    with pytest.raises(OwnCodeError, match=rf"^your code failed in the backward pass: RuntimeError: .*{message}"):
        backward(loss, ONE)


@pytest.mark.usefixtures("_way")
def test_gradients_are_those_of_torch() -> None:
    layer, inputs = nn.Linear(3, 1), torch.randn(4, 3)
    backward(layer(inputs).sum(), torch.tensor(2.0))
    found = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    (2 * layer(inputs).sum()).backward()
    for gradient, parameter in zip(found, layer.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=0)


def test_a_loss_without_a_gradient_is_refused() -> None:
    with pytest.raises(ConfigError, match="an output without a gradient"):
        backward(torch.ones(()), ONE)
