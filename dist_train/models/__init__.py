"""Settings -> network: the file's name is the model's name, and a file is imported only when its model is used.

Each file has `build(config, shape, num_classes) -> nn.Module`, whose module takes float images [N, C, H, W] and
returns logits [N, num_classes].
"""

import copy
from importlib import import_module
from types import ModuleType

import torch
from torch import nn

from dist_train import seeds
from dist_train.errors import ConfigError, DataError
from dist_train.settings.schema import Model


def build_model(config: Model, shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    """The network with the weights that belong to `seed`, on the CPU.

    Args:
        shape: channels, height and width of a image.
        num_classes: classes in the data.

    Raises:
        ConfigError: `model.num_classes` is not the data's.
        DataError: the network does not take images of this shape.
    """
    if config.num_classes not in (None, num_classes):
        raise ConfigError(
            f"model.num_classes is {config.num_classes}, but the data has {num_classes} classes; leave it out"
        )
    torch.manual_seed(seeds.derive(seed, "weights"))
    try:
        model: nn.Module = module_of(config).build(config, shape, num_classes)
        _try_one_image(model, shape, num_classes)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]  # a bare assert says nothing
        raise DataError(
            f"model.name {config.name} does not take images of {'x'.join(map(str, shape))} "
            f"(channels, height, width): {reason}. Set data.resize or choose another model."
        ) from error
    return model


def module_of(config: Model) -> ModuleType:
    """The module of this package that builds the network, imported now."""
    file = "torchvision_models" if config.name.startswith("torchvision/") else config.name
    return import_module(f"dist_train.models.{file}")


def check_passes(network: nn.Module, shape: tuple[int, int, int], fewest: int) -> None:
    """Refuse before the first step what batch normalisation would refuse in the middle of an epoch.

    Args:
        fewest: samples of the smallest backward pass of the training.

    Raises:
        ConfigError: it is one sample, and a layer can't normalise over a single value.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # not those synchronised over ranks
    if fewest > 1 or not any(isinstance(layer, kinds) for layer in network.modules()):
        return
    weight = next(network.parameters())
    try:
        with torch.no_grad():
            copy.deepcopy(network).train()(torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device))
    except ValueError as error:
        raise ConfigError(
            "data.global_batch: some rank gets a single sample in some backward pass, which this model's batch "
            "normalisation can't take. Change data.global_batch, data.limit_train or train.micro_batch so that no rank "
            "gets one, or start fewer ranks"
        ) from error


def _try_one_image(model: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    """Let a image through in evaluation mode, where nothing random happens and no statistics change."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, *shape, dtype=torch.get_default_dtype()))
    model.train()
    if logits.shape != (1, num_classes):
        raise ValueError(f"it returns {list(logits.shape)} in place of [1, {num_classes}]")
