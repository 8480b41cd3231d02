"""Two padded 3x3 convolutions and one linear layer: the smallest network that is good at MNIST."""

from torch import nn

from dist_train.models.convolutional import convolutional
from dist_train.settings.schema import SmallNet


def build(config: SmallNet, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return convolutional(
        shape, channels=(16, 32), kernel=3, padding=1, hidden=(), num_classes=num_classes, dropout=config.dropout
    )
