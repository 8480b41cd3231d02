"""Any classification model of torchvision, with input channels and classes of the data, and its trained weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

# Their second heads return tuples in training, and their slow initialisation warns unless it is asked for.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}

# What trained weights have of those heads.
_SECOND_HEADS = ("aux1.", "aux2.", "AuxLogits.")


def list_weights(name: str) -> list[str]:
    """Return the names of the trained weights of a network; the first of them is `DEFAULT`."""
    return ["DEFAULT", *get_model_weights(name).__members__]


def fetch_weights(name: str, weights: str) -> dict[str, Tensor]:
    """Return trained weights by their name, from torch's cache or, if they are not there, from the network."""
    found = get_model_weights(name)[weights].get_state_dict(progress=False, check_hash=True, weights_only=True)
    return {key: value for key, value in found.items() if not key.startswith(_SECOND_HEADS)}


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
