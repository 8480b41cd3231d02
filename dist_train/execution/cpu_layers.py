"""Faster max-pooling for CPUs, swapped into any network without changing its numbers or its state_dict."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_FEWEST_VALUES = 32_768
"""Smaller inputs gain nothing: eight calls of torch cost more than its one."""
_VECTOR = 16
"""Channels that a vector register holds in fp32; with fewer, torch's pooling goes through them one by one."""
_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def use_fast_cpu_layers(network: nn.Module) -> None:
    """Swap each 2x2 `nn.MaxPool2d` of a network, in place, for one that is faster on CPUs.

    Parameters, state_dict, hooks, `print(network)` and results stay the same; subclasses of `nn.MaxPool2d` and pooling
    of other sizes are left alone. The swapped layers compute as `nn.MaxPool2d` does on GPUs, inside `torch.compile`,
    and for inputs that are not in channels_last.
    """
    for layer in network.modules():
        if type(layer) is nn.MaxPool2d and _is_two_by_two(layer):
            layer.__class__ = FastMaxPool2d


class FastMaxPool2d(nn.MaxPool2d):
    """The values and gradients of `nn.MaxPool2d(2)`, up to four times as fast in channels_last on a CPU.

    torch goes from window to window and keeps the position of each maximum, also where no gradient is needed. Here
    whole rows are compared.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return the largest value of each 2x2 pixels: [B, C, H, W] -> [B, C, H / 2, W / 2]."""
        needs_gradient = torch.is_grad_enabled() and images.requires_grad
        if not _gains(images, needs_gradient):
            return super().forward(images)  # type: ignore[no-any-return]
        return _MaxPool.apply(images) if needs_gradient else _pool(images)[1]

    def _get_name(self) -> str:
        return "MaxPool2d"


class _MaxPool(torch.autograd.Function):
    """2x2 max-pooling of [B, C, H, W] with even sides; of equal values the first, row by row, gets the gradient.

    Values are compared by their bits, as integers: torch's arithmetic on bf16 is far slower. So the gradient may go to
    another value than torch's where a window holds NaN, or both 0 and -0.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        pairs, pooled = _pool(images)
        ctx.save_for_backward(images, pairs, pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        images, pairs, pooled = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: torch's own pooling can be differentiated again
            pooled = functional.max_pool2d(images, 2)
            return torch.autograd.grad(pooled, images, gradient, create_graph=True)[0]  # type: ignore[no-any-return]
        dtype, bits = gradient.dtype, _BITS[gradient.dtype]
        gradient, images, pairs, pooled = (tensor.view(bits) for tensor in (gradient, images, pairs, pooled))
        to_pairs, to_images = torch.empty_like(pairs), torch.empty_like(images)
        _route(gradient, pooled, pairs[:, :, 0::2], to_pairs[:, :, 0::2], to_pairs[:, :, 1::2])
        _route(to_pairs, pairs, images[..., 0::2], to_images[..., 0::2], to_images[..., 1::2])
        return to_images.view(dtype)


def _gains(images: Tensor, needs_gradient: bool) -> bool:
    """Whether whole rows can be compared here, and that is faster."""
    return (
        images.numel() >= _FEWEST_VALUES
        and images.device.type == "cpu"
        and images.dtype in _BITS
        and images.dim() == 4
        and images.is_contiguous(memory_format=torch.channels_last)
        and not (images.shape[2] % 2 or images.shape[3] % 2)
        and not (needs_gradient and images.dtype == torch.float32 and images.shape[1] >= _VECTOR)
        and not torch.compiler.is_compiling()
    )


def _pool(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maxima of each two pixels in a row, [B, C, H, W / 2], and of each four, [B, C, H / 2, W / 2]."""
    pairs = torch.maximum(images[..., 0::2], images[..., 1::2])
    return pairs, torch.maximum(pairs[:, :, 0::2], pairs[:, :, 1::2])


def _route(gradient: Tensor, maximum: Tensor, first: Tensor, to_first: Tensor, to_second: Tensor) -> None:
    """Write `gradient` to `to_first` where `first` is the `maximum`, to `to_second` elsewhere, and 0 to the other.

    All are integers of one shape, the bits of floating-point numbers.
    """
    torch.eq(maximum, first, out=to_first)
    to_first.mul_(gradient)
    torch.bitwise_xor(gradient, to_first, out=to_second)


def _is_two_by_two(layer: nn.MaxPool2d) -> bool:
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    pairs = [size if isinstance(size, tuple) else (size, size) for size in sizes]
    return pairs == [(2, 2), (2, 2), (0, 0), (1, 1)] and not layer.return_indices
