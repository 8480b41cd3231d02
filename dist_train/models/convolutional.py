"""What the networks of the lessons share: convolutions, each with ReLU and 2x2 pooling, then linear layers.

The layers are called conv1, conv2, fc1, ... as in the lessons, so that a saved `model.pt` loads into the class that
a lesson writes out.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

WIDTH = 8
"""Channels that a vector of fp32 holds."""


def convolutional(
    shape: tuple[int, int, int],
    channels: tuple[int, ...],
    hidden: tuple[int, ...],
    num_classes: int,
    dropout: float,
    kernel: int = 5,
    padding: int = 0,
) -> nn.Module:
    """A network for images of `shape` (channels, height, width).

    Args:
        channels: output channels of the convolutions, one after the other.
        hidden: units of the linear layers before the last.
        dropout: probability with which an input of the last layer is dropped in training.

    Raises:
        ValueError: a image is too small for so many convolutions.
    """
    layers: dict[str, nn.Module] = {}
    height, width = shape[1:]
    for number, (inputs, outputs) in enumerate(pairwise((shape[0], *channels)), start=1):
        layers[f"conv{number}"] = Convolution(inputs, outputs, kernel, padding=padding)
        # Pooling first gives the same numbers as ReLU first, with a quarter of the ReLU's work.
        layers[f"pool{number}"] = Pooling()
        layers[f"relu{number}"] = nn.ReLU()
        height, width = ((side + 2 * padding - kernel + 1) // 2 for side in (height, width))
    if min(height, width) < 1:
        raise ValueError(f"nothing is left of them after {len(channels)} convolutions")
    layers["flatten"] = Flatten(channels[-1])
    units = (channels[-1] * height * width, *hidden)
    for number, (inputs, outputs) in enumerate(pairwise(units), start=1):
        layers[f"fc{number}"] = nn.Linear(inputs, outputs)
        layers[f"relu{len(channels) + number}"] = nn.ReLU()
    if dropout > 0:  # a layer that drops nothing would cost a call a step
        layers["dropout"] = nn.Dropout(dropout)
    layers[f"fc{len(units)}"] = nn.Linear(units[-1], num_classes)
    return nn.Sequential(OrderedDict(layers))


class Convolution(nn.Conv2d):
    """A convolution that gives at least eight channels where they lie innermost in memory on a CPU.

    Pooling works on vectors of channels there, and on six of them one by one, at a third of the speed for bf16. What is
    added is zero, before and after each layer, and belongs to no weight.
    """

    def forward(self, images: Tensor) -> Tensor:
        added = images.shape[1] - self.in_channels
        missing = max(0, WIDTH - self.out_channels) if _lie_innermost_on_cpu(images) else 0
        if not (added or missing) or self.bias is None:
            return super().forward(images)
        weight = functional.pad(self.weight, (0, 0, 0, 0, 0, added, 0, missing))
        return functional.conv2d(images, weight, functional.pad(self.bias, (0, missing)), padding=self.padding)


class Pooling(nn.MaxPool2d):
    """Largest value of each 2x2 pixels: the numbers and gradients of `nn.MaxPool2d(2)`, in half its time and less.

    Where channels lie innermost on a CPU, torch goes from window to window and notes where each value was, in an
    evaluation too; here whole rows are compared. In fp32 a training would gain nothing by it.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: Tensor) -> Tensor:
        is_even = not (images.shape[2] % 2 or images.shape[3] % 2)
        if is_even and _lie_innermost_on_cpu(images) and not torch.compiler.is_compiling():
            if not (torch.is_grad_enabled() and images.requires_grad):
                return _pooled(images)[1]
            if images.dtype == torch.bfloat16:
                return _Pool.apply(images)  # type: ignore[no-any-return]
        return super().forward(images)  # type: ignore[no-any-return]


class _Pool(torch.autograd.Function):
    """2x2 pooling of bf16, [B, C, H, W] with even sides; of equal values the first has the gradient.

    Equal are those of the same bits: of 0 and -0 either may have it. Gradients are handled as the integers of their
    bits: torch's arithmetic on bf16 is far slower there.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        of_pairs, pooled = _pooled(images)
        ctx.save_for_backward(images, of_pairs, pooled)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        images, of_pairs, pooled = (saved.view(torch.int16) for saved in ctx.saved_tensors)
        to_pairs, to_images = torch.empty_like(of_pairs), torch.empty_like(images)
        _dealt(gradient.view(torch.int16), pooled, of_pairs[:, :, 0::2], to_pairs[:, :, 0::2], to_pairs[:, :, 1::2])
        _dealt(to_pairs, of_pairs, images[..., 0::2], to_images[..., 0::2], to_images[..., 1::2])
        return to_images.view(torch.bfloat16)


def _pooled(images: Tensor) -> tuple[Tensor, Tensor]:
    """The larger of each two in a row, [B, C, H, W / 2], and of each two of these in a column, [B, C, H / 2, W / 2]."""
    of_pairs = torch.maximum(images[..., 0::2], images[..., 1::2])
    return of_pairs, torch.maximum(of_pairs[:, :, 0::2], of_pairs[:, :, 1::2])


def _dealt(gradient: Tensor, largest: Tensor, first: Tensor, to_first: Tensor, to_second: Tensor) -> None:
    """Write the `gradient` of `largest` to the first where that is it, to the second elsewhere, and 0 to the other.

    All int16 of one shape, the bits of bf16.
    """
    torch.eq(largest, first, out=to_first)
    to_first.mul_(gradient)
    torch.bitwise_xor(gradient, to_first, out=to_second)


class Flatten(nn.Module):
    """Features in one row a image, without the channels that a `Convolution` has added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        return features[:, : self.channels].flatten(1)


def _lie_innermost_on_cpu(images: Tensor) -> bool:
    """Whether the channels of [B, C, H, W] lie next to each other, and the processor computes."""
    return images.stride(1) == 1 and images.device.type == "cpu"
