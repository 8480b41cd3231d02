"""The network of PyTorch's MNIST example as it stood in 2019, with the log-softmax left to the loss."""

from torch import nn

from dist_train.models.convolutional import convolutional
from dist_train.settings.schema import SmallNet


def build(config: SmallNet, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return convolutional(shape, channels=(20, 50), hidden=(500,), num_classes=num_classes, dropout=config.dropout)
