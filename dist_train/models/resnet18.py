"""torchvision's ResNet-18 for small pictures: a 3x3 stem of stride 1 and no max-pool.

He et al., "Deep residual learning for image recognition", CVPR 2016 (section 4.2 has the stem for CIFAR-10).
"""

from torch import nn

from dist_train.config import ResNet18


def build(config: ResNet18, shape: tuple[int, int, int], num_classes: int) -> nn.Module:  # noqa: ARG001
    from torchvision.models import resnet18  # a second's import, for those who use it

    model: nn.Module = resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(shape[0], 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model
