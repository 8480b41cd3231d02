"""In bf16 on a CPU, the gradient of a kernel is right also where the kernel is larger than the input."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from dist_train.execution.small_convolutions import protect_small_convolutions

KINDS = [getattr(nn, f"Conv{kind}{dimensions}d") for kind in ("", "Transpose") for dimensions in (1, 2, 3)]
SETTINGS = [
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 5, "padding": 2},
    {"kernel_size": 5, "stride": 2, "padding": 2, "groups": 4},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},  # in three dimensions torch 2.15 crashes, in fp32 too
]


def leave_garbage() -> None:
    """Fill memory that torch uses next."""
    for size in (100, 1000, 10_000, 100_000):
        torch.full((size,), float("nan"))
        torch.full((size,), float("nan"), dtype=torch.bfloat16)


def compute_gradients(layer: nn.Module, inputs: Tensor) -> list[Tensor]:
    inputs = inputs.clone().requires_grad_()
    leave_garbage()
    output = layer(inputs)
    (output.double() * torch.linspace(-1, 1, output[0].numel()).view(output[0].shape)).sum().backward()
    gradients = [inputs.grad, *(parameter.grad for parameter in layer.parameters())]
    return [gradient.double() for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_gradients_are_those_of_float64(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    dimensions = int(kind.__name__[-2])
    for settings, side in itertools.product(SETTINGS[: 6 if dimensions == 3 else None], (1, 2, 4)):
        exact = kind(32, 32, **settings).double()
        inputs = torch.randn(2, 32, *[side] * dimensions)
        expected = compute_gradients(exact, inputs.double())
        layer = copy.deepcopy(exact).float()
        layer.zero_grad()
        protect_small_convolutions(layer)
        with torch.autocast("cpu", torch.bfloat16):
            found = compute_gradients(layer, inputs)
        for gradient, right in zip(found, expected, strict=True):
            assert (gradient - right).abs().max() <= 0.03 * right.abs().max(), (settings, side)


def test_a_network_stays_as_it_is_but_for_its_classes() -> None:
    network = nn.Sequential(*(kind(4, 4, 3, padding=1) for kind in KINDS))
    shown, keys = str(network), list(network.state_dict())
    protect_small_convolutions(network)
    protect_small_convolutions(network)
    assert (str(network), list(network.state_dict())) == (shown, keys)
    assert all(isinstance(layer, kind) for layer, kind in zip(network, KINDS, strict=True))


@pytest.mark.parametrize("side", [1, 8])
def test_fp32_keeps_its_bits(side: int) -> None:
    layer, images = nn.Conv2d(8, 8, 3, padding=1), torch.randn(4, 8, side, side)
    expected = compute_gradients(layer, images)
    layer.zero_grad()
    protect_small_convolutions(layer)
    assert all(map(torch.equal, compute_gradients(layer, images), expected))
