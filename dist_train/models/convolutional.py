"""What the networks of the lessons share: convolutions, each with ReLU and 2x2 pooling, then linear layers.

The layers are called conv1, conv2, fc1, ... as in the lessons, so that a saved `model.pt` loads into the class that
a lesson writes out.
"""

from collections import OrderedDict
from itertools import pairwise

from torch import nn


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
        layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, kernel, padding=padding)
        # Pooling first gives the same numbers as ReLU first, with a quarter of the ReLU's work.
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        layers[f"relu{number}"] = nn.ReLU()
        height, width = ((side + 2 * padding - kernel + 1) // 2 for side in (height, width))
    if min(height, width) < 1:
        raise ValueError(f"nothing is left of them after {len(channels)} convolutions")
    layers["flatten"] = nn.Flatten()
    units = (channels[-1] * height * width, *hidden)
    for number, (inputs, outputs) in enumerate(pairwise(units), start=1):
        layers[f"fc{number}"] = nn.Linear(inputs, outputs)
        layers[f"relu{len(channels) + number}"] = nn.ReLU()
    if dropout > 0:  # a layer that drops nothing would cost a call a step
        layers["dropout"] = nn.Dropout(dropout)
    layers[f"fc{len(units)}"] = nn.Linear(units[-1], num_classes)
    return nn.Sequential(OrderedDict(layers))
