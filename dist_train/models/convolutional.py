"""What the networks of the lessons share: convolutions, each with ReLU and 2x2 pooling, then linear layers.

The layers are called conv1, conv2, fc1, ... as in the lessons, so that a saved `model.pt` loads into the class that
a lesson writes out.
"""

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn
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
    """A network for pictures of `shape` (channels, height, width).

    Args:
        channels: output channels of the convolutions, one after the other.
        hidden: units of the linear layers before the last.
        dropout: probability with which an input of the last layer is dropped in training.

    Raises:
        ValueError: a picture is too small for so many convolutions.
    """
    layers: dict[str, nn.Module] = {}
    height, width = shape[1:]
    for number, (inputs, outputs) in enumerate(pairwise((shape[0], *channels)), start=1):
        layers[f"conv{number}"] = Convolution(inputs, outputs, kernel, padding=padding)
        # Pooling first gives the same numbers as ReLU first, with a quarter of the ReLU's work.
        layers[f"pool{number}"] = nn.MaxPool2d(2)
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

    def forward(self, pictures: Tensor) -> Tensor:
        added = pictures.shape[1] - self.in_channels
        is_inner = pictures.stride(1) == 1 and pictures.device.type == "cpu"
        missing = max(0, WIDTH - self.out_channels) if is_inner else 0
        if not (added or missing) or self.bias is None:
            return super().forward(pictures)
        weight = functional.pad(self.weight, (0, 0, 0, 0, 0, added, 0, missing))
        return functional.conv2d(pictures, weight, functional.pad(self.bias, (0, missing)), padding=self.padding)


class Flatten(nn.Module):
    """Features in one row a picture, without the channels that a `Convolution` has added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        return features[:, : self.channels].flatten(1)
