"""The network of PyTorch's MNIST example as it stood in 2019, with the log-softmax left to the loss."""

from torch import nn

from dist_train.config import SmallNet
from dist_train.models.convolutional import convolutional


def build(config: SmallNet, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return convolutional(shape, channels=(20, 50), hidden=(500,), num_classes=num_classes, dropout=config.dropout)
