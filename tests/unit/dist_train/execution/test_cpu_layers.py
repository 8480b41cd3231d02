"""The faster pooling computes what `nn.MaxPool2d` does, to the bit, and is swapped in where that is certain."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_train.execution import cpu_layers
from dist_train.execution.cpu_layers import FastMaxPool2d, use_fast_cpu_layers

Shape = tuple[int, ...]
SHAPES: dict[str, Shape] = {
    "few channels": (16, 6, 20, 18),
    "a vector of channels": (4, 16, 32, 32),
    "a vector and a rest": (8, 20, 16, 16),
    "one channel": (4, 1, 128, 128),
    "odd height": (16, 6, 21, 18),
    "odd width": (16, 6, 20, 19),
    "one image": (1, 8, 80, 64),
    "few values": (2, 6, 8, 8),
}


class Subclassed(nn.MaxPool2d):
    """A layer whose forward may be anything."""


def values(shape: Shape, dtype: torch.dtype, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    """Few different values, so that many windows have several maxima."""
    drawn = torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(dtype).contiguous(memory_format=memory_format)


def output_and_gradient(layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.detach().requires_grad_()
    pooled = layer(images)
    pooled.backward(torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).to(pooled.dtype))
    assert images.grad is not None
    return pooled.detach(), images.grad


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype
    assert found.stride() == expected.stride()


def swapped(network: nn.Module) -> nn.Module:
    """A copy of the network with fast layers."""
    network = copy.deepcopy(network)
    use_fast_cpu_layers(network)
    return network


@pytest.fixture
def fast_calls(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """The shapes of all images that were pooled by comparing rows."""
    shapes: list[Shape] = []
    original = cpu_layers._pool

    def counted(images: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append(tuple(images.shape))
        return original(images)

    monkeypatch.setattr(cpu_layers, "_pool", counted)
    return shapes


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_pooling_has_the_bits_of_torch(shape: Shape, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    images = values(shape, dtype, memory_format)
    found, expected = (output_and_gradient(layer, images) for layer in (FastMaxPool2d(2), nn.MaxPool2d(2)))
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
    with torch.no_grad():
        assert_same(FastMaxPool2d(2)(images), nn.MaxPool2d(2)(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_infinities_and_nan_are_pooled_as_torch_does(dtype: torch.dtype) -> None:
    images = values((16, 6, 20, 18), dtype)
    images[0, 0] = torch.inf
    images[1, 1] = -torch.inf
    images[2, 2, 4, 4] = torch.nan
    found, expected = (layer(images.requires_grad_()) for layer in (FastMaxPool2d(2), nn.MaxPool2d(2)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("shape", "dtype", "in_evaluation", "in_training"),
    [
        (SHAPES["few channels"], torch.float32, True, True),
        (SHAPES["a vector of channels"], torch.float32, True, False),
        (SHAPES["a vector of channels"], torch.bfloat16, True, True),
        (SHAPES["odd height"], torch.float32, False, False),
        (SHAPES["odd width"], torch.float32, False, False),
        (SHAPES["few values"], torch.float32, False, False),
    ],
)
def test_rows_are_compared_where_it_gains(
    shape: Shape, dtype: torch.dtype, in_evaluation: bool, in_training: bool, fast_calls: list[Shape]
) -> None:
    images = values(shape, dtype)
    FastMaxPool2d(2)(images)
    assert fast_calls == [shape] * in_evaluation
    fast_calls.clear()
    FastMaxPool2d(2)(images.requires_grad_())
    assert fast_calls == [shape] * in_training


def test_images_in_another_memory_format_are_left_to_torch(fast_calls: list[Shape]) -> None:
    images = values(SHAPES["few channels"], torch.float32)
    FastMaxPool2d(2)(images.contiguous())
    FastMaxPool2d(2)(images[:, :5])
    assert fast_calls == []


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d((2, 3)),
        nn.MaxPool2d(2, return_indices=True),
        nn.AvgPool2d(2),
        Subclassed(2),
    ],
    ids=repr,
)
def test_layers_that_compute_something_else_are_left_alone(layer: nn.Module) -> None:
    kind = type(layer)
    use_fast_cpu_layers(layer)
    assert type(layer) is kind


@pytest.mark.parametrize(
    "layer",
    [nn.MaxPool2d(2), nn.MaxPool2d((2, 2), (2, 2)), nn.MaxPool2d(2, padding=(0, 0)), nn.MaxPool2d(2, ceil_mode=True)],
)
@pytest.mark.parametrize("shape", [(4, 6, 64, 64), (4, 6, 63, 64)])
def test_each_way_to_write_two_by_two_is_swapped(layer: nn.MaxPool2d, shape: Shape) -> None:
    fast = swapped(layer)
    assert type(fast) is FastMaxPool2d
    images = values(shape, torch.float32)
    for ours, theirs in zip(output_and_gradient(fast, images), output_and_gradient(layer, images), strict=True):
        assert_same(ours, theirs)


def any_network() -> nn.Module:
    """Layers of many kinds around pooling, one of them in two places."""
    pool = nn.MaxPool2d(2)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), pool),
        *(nn.Conv2d(6, 12, 3, padding="same", groups=3), nn.BatchNorm2d(12), pool, nn.ReLU()),
        *(nn.Conv2d(12, 8, 3, stride=2, dilation=2, bias=False), Subclassed(2), nn.Flatten(), nn.Linear(72, 5)),
    ).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_network_keeps_its_numbers_and_its_gradients(dtype: torch.dtype | None, fast_calls: list[Shape]) -> None:
    torch.manual_seed(0)
    plain = any_network()
    fast = swapped(plain)
    images = torch.randn(32, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    outputs = []
    for network in (plain, fast):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            outputs.append(network(images))
        outputs[-1].float().square().sum().backward()
    assert fast_calls == [(32, 6, 64, 64), (32, 12, 32, 32)]
    assert torch.equal(*outputs)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_names_text_and_state_dict_stay_the_same() -> None:
    plain = any_network()
    fast = swapped(plain)
    assert repr(fast) == repr(plain)
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in plain.named_modules()]
    plain.load_state_dict(fast.state_dict(), strict=True)
    use_fast_cpu_layers(fast)  # a second time changes nothing
    assert [type(layer) for layer in copy.deepcopy(fast).children()].count(FastMaxPool2d) == 1  # one layer, twice


def test_hooks_are_called_as_before() -> None:
    plain = nn.MaxPool2d(2)
    seen: list[Any] = []
    plain.register_forward_hook(lambda _, __, output: seen.append(output.shape))
    plain.register_full_backward_hook(lambda _, gradients, __: seen.append(gradients[0].shape))  # type: ignore[index]
    use_fast_cpu_layers(plain)
    output_and_gradient(plain, values((16, 6, 20, 18), torch.float32))
    assert seen == [(16, 6, 10, 9), (16, 6, 20, 18)]


def test_a_gradient_can_be_differentiated_again() -> None:
    found = []
    for layer in (FastMaxPool2d(2), nn.MaxPool2d(2)):
        images = values((16, 6, 20, 18), torch.float32).requires_grad_()
        (gradient,) = torch.autograd.grad(layer(images).pow(3).sum(), images, create_graph=True)
        found.append((gradient.detach(), *torch.autograd.grad(gradient.square().sum(), images)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_gradient_that_is_the_same_for_all_values_is_routed_too() -> None:
    """A sum gives a gradient whose values share one place in memory."""
    images = values((16, 6, 20, 18), torch.bfloat16).requires_grad_()
    FastMaxPool2d(2)(images).sum().backward()
    found = images.grad
    images.grad = None
    functional.max_pool2d(images, 2).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, images.grad, rtol=0, atol=0)


def test_a_compiled_network_has_the_layer_of_torch(fast_calls: list[Shape]) -> None:
    layer = swapped(nn.Sequential(nn.MaxPool2d(2), nn.ReLU()))
    images = values((16, 6, 20, 18), torch.float32).requires_grad_()
    found = torch.compile(layer, dynamic=False, backend="eager", fullgraph=True)(images)
    assert fast_calls == []
    assert_same(found, layer(images))
    assert fast_calls == [(16, 6, 20, 18)]


def test_deterministic_algorithms_give_the_same_bits() -> None:
    images = values((16, 6, 20, 18), torch.bfloat16)
    expected = output_and_gradient(FastMaxPool2d(2), images)
    torch.use_deterministic_algorithms(True)
    try:
        found = output_and_gradient(FastMaxPool2d(2), images)
    finally:
        torch.use_deterministic_algorithms(False)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
