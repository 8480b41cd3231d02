"""The network of PyTorch's "Training a classifier" in the 60-minute tutorial; `width` makes it wider."""

from torch import nn

from dist_train.models.convolutional import convolutional
from dist_train.settings.schema import CifarTutorial


def build(config: CifarTutorial, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    width = config.width
    return convolutional(
        shape,
        channels=(6 * width, 16 * width),
        hidden=(120 * width, 84 * width),
        num_classes=num_classes,
        dropout=config.dropout,
    )
