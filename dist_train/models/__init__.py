"""Settings -> network: the file's name is the model's name, and a file is imported only when its model is used.

Each file has `build(config, shape, num_classes) -> nn.Module`, whose module takes float pictures [N, C, H, W] and
returns logits [N, num_classes].
"""

from importlib import import_module

import torch
from torch import nn

from dist_train import seeds
from dist_train.config import Model
from dist_train.errors import ConfigError, DataError


def build_model(config: Model, shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    """The network with the weights that belong to `seed`, on the CPU.

    Args:
        shape: channels, height and width of a picture.
        num_classes: classes in the data.

    Raises:
        ConfigError: `model.num_classes` is not the data's.
        DataError: the network does not take pictures of this shape.
    """
    if config.num_classes not in (None, num_classes):
        raise ConfigError(
            f"model.num_classes is {config.num_classes}, but the data has {num_classes} classes; leave it out"
        )
    torch.manual_seed(seeds.derive(seed, "weights"))
    file = "torchvision_models" if config.name.startswith("torchvision/") else config.name
    try:
        model: nn.Module = import_module(f"dist_train.models.{file}").build(config, shape, num_classes)
        _try_one_picture(model, shape, num_classes)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]  # a bare assert says nothing
        raise DataError(
            f"model.name {config.name} does not take pictures of {'x'.join(map(str, shape))} "
            f"(channels, height, width): {reason}. Set data.resize or choose another model."
        ) from error
    return model


def _try_one_picture(model: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    """Let a picture through in evaluation mode, where nothing random happens and no statistics change."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, *shape, dtype=torch.get_default_dtype()))
    model.train()
    if logits.shape != (1, num_classes):
        raise ValueError(f"it returns {list(logits.shape)} in place of [1, {num_classes}]")
