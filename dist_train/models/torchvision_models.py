"""Any classification model of torchvision, with input channels and classes of the data."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision.models import get_model

# In training, their second heads return tuples; their slow initialisation warns unless `init_weights` is given.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
SECOND_HEADS = ("aux1.", "aux2.", "AuxLogits.")
"""Prefixes of the second heads' names in published weights."""


def build(name: str, shape: tuple[int, int, int], num_classes: int, arguments: Mapping[str, Any] = {}) -> nn.Module:
    """Return torchvision's network `name` for images of `shape` (channels, height, width)."""
    arguments = {**_ARGUMENTS.get(name, {}), **arguments}
    if name.startswith("vit_"):
        arguments["image_size"] = shape[1]
    if name == "maxvit_t":
        arguments["input_size"] = shape[1:]
    model: nn.Module = get_model(name, num_classes=num_classes, **arguments)
    if shape[0] != 3:
        _replace_first_convolution(model, shape[0])
    return model


def _replace_first_convolution(model: nn.Module, channels: int) -> None:
    """Replace the network's first layer, which takes 3 channels, by one that takes `channels`."""
    path, first = next((path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    parent_path, _, attribute = path.rpartition(".")
    replacement = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    setattr(model.get_submodule(parent_path), attribute, replacement)
