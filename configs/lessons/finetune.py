"""EfficientNet-Lite0, which has learned from pictures of 224x224, for small pictures: it enlarges them."""

from typing import Any

from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional


class Enlarging(EfficientNet):  # type: ignore[misc]
    """Takes [B, 3, H, W] of any size; returns logits [B, 1000], or of as many classes as its last layer has."""

    def forward(self, pictures: Tensor) -> Any:
        return super().forward(functional.interpolate(pictures, size=96, mode="bilinear"))
