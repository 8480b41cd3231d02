"""LeNet-5 as it is taught today: ReLU and max-pooling, for 32x32 images.

After LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998.
"""

from torch import nn

from dist_train.models.convolutional import convolutional
from dist_train.settings.schema import SmallNet


def build(config: SmallNet, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return convolutional(shape, channels=(6, 16), hidden=(120, 84), num_classes=num_classes, dropout=config.dropout)
