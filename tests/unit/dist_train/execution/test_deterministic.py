"""Networks for which torch has no deterministic kernels are refused by name, whatever they consist of."""

import re
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from dist_train.errors import ConfigError
from dist_train.execution.deterministic import check_deterministic, use_deterministic_kernels

SHAPE = (3, 8, 8)
# Operations for which torch's CUDA library raises an error in this mode, of those that can be in a network for images:
# they call `alertNotDeterministic` in aten/src/ATen/native/cuda.
REFUSED_ON_GPUS = (
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
    *("max_unpool2d", "max_unpool3d", "reflection_pad1d_backward", "reflection_pad2d_backward"),
    *("reflection_pad3d_backward", "upsample_linear1d_backward", "upsample_bicubic2d_backward"),
    *("upsample_trilinear3d_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward"),
)


class LikeAGpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses the operations that torch refuses on a GPU in deterministic mode, in its words."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in REFUSED_ON_GPUS:
            raise RuntimeError(
                f"{name.lstrip('_')}_cuda does not have a deterministic implementation, but you set "
                "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation."
            )
        return func(*args, **(kwargs or {}))


class Function(nn.Module):
    """A network that calls a function of images instead of a layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self._function = function

    def forward(self, images: Tensor) -> Tensor:
        return self._function(images)  # type: ignore[no-any-return]


def network(layer: nn.Module) -> nn.Module:
    """A network whose second layer this is."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer, nn.Flatten())


def sample_grid(images: Tensor) -> Tensor:
    return functional.grid_sample(images, torch.zeros(len(images), 2, 2, 2), align_corners=False)


def unpool(images: Tensor) -> Tensor:
    pooled, places = functional.max_pool2d(images, 2, return_indices=True)
    return functional.max_unpool2d(pooled, places, [2, 2])


def in_volumes(layer: nn.Module) -> nn.Module:
    """A layer for volumes, on images whose channels are the depth."""
    return nn.Sequential(nn.Unflatten(1, (1, 4)), layer)


LAYERS = {
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d(6),
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d(2),
    "avg_pool3d": in_volumes(nn.AvgPool3d((1, 2, 2))),
    "adaptive_avg_pool3d": in_volumes(nn.AdaptiveAvgPool3d((1, 3, 3))),
    "fractional_max_pool2d": nn.FractionalMaxPool2d(2, output_size=3),
    "fractional_max_pool3d": in_volumes(nn.FractionalMaxPool3d(2, output_size=2)),
    "reflection_pad2d": nn.ReflectionPad2d(1),
    "upsample_bicubic2d": nn.Upsample(scale_factor=2, mode="bicubic"),
}
FUNCTIONS = {
    "adaptive_avg_pool2d": lambda images: functional.adaptive_avg_pool2d(images, (2, 3)),
    "reflection_pad2d": lambda images: functional.pad(images, (1, 1, 1, 1), mode="reflect"),
    "grid_sampler_2d": sample_grid,
    "max_unpool2d": unpool,
}


def check_like_a_gpu(model: nn.Module) -> None:
    with LikeAGpu():  # type: ignore[no-untyped-call]
        check_deterministic(model, lambda model: model(torch.zeros(2, *SHAPE)).float().sum(), nullcontext())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_without_a_deterministic_kernel_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"no deterministic kernel for {name}_backward_cuda.*layer 1") as found:
        check_like_a_gpu(network(LAYERS[name]))
    assert "run.deterministic=false" in str(found.value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_without_a_deterministic_kernel_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"no deterministic kernel for {name}\w*_cuda on"):
        check_like_a_gpu(network(Function(FUNCTIONS[name])))


@pytest.mark.parametrize(
    "layer",
    [nn.AdaptiveAvgPool2d(1), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.Dropout(), nn.ZeroPad2d(1)],
)
def test_others_are_taken_and_stay_as_they_were(layer: nn.Module) -> None:
    model = network(layer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_like_a_gpu(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_torch_itself_refuses_what_the_cpu_has_no_kernel_for() -> None:
    def put(images: Tensor) -> Tensor:
        return torch.zeros_like(images).put_(torch.arange(images.numel()), images.flatten())

    was_filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    use_deterministic_kernels()
    try:
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        with pytest.raises(ConfigError, match=r"no deterministic kernel for put_ on this CPU"):
            check_deterministic(
                network(Function(put)), lambda model: model(torch.zeros(2, *SHAPE)).float().sum(), nullcontext()
            )
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = was_filled  # type: ignore[attr-defined]


def test_the_layers_above_are_those_that_torch_lists() -> None:
    """A new torch may list others: then they belong above."""
    text = str(torch.use_deterministic_algorithms.__doc__).rpartition("will throw a")[2]
    text = text.partition("MPS")[0]
    layers = set(re.findall(r":class:`torch\.nn\.(\w+)` when attempting to differentiate a CUDA", text))
    others = {"ReflectionPad1d", "ReflectionPad3d", "CTCLoss", "EmbeddingBag"}  # not for images
    tested = {name for layer in LAYERS.values() for name in map(type_name, layer.modules())}
    assert layers - others <= tested


def type_name(layer: nn.Module) -> str:
    return type(layer).__name__
