"""Build the network of the settings. To add a model: its module here, a line in `MODELS`, its name in the settings."""

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from dist_train import seeds
from dist_train.errors import ConfigError, DataError
from dist_train.models.cifar_tutorial import CifarNet
from dist_train.models.lenet import LeNet
from dist_train.models.mnist_cnn import OLD_NAMES, MnistCNN
from dist_train.models.mnist_example import MnistNet
from dist_train.models.resnet18 import ResNet
from dist_train.nest import Nest, move_inputs
from dist_train.settings.schema import Model

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "mnist_example": MnistNet,
    "mnist_cnn": MnistCNN,
    "cifar_tutorial": CifarNet,
    "resnet18": ResNet,
}
"""Each is called with `shape`, `num_classes` and the model's own settings, and returns logits [N, num_classes]."""


def build_model(config: Model, shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    """Return the network of the settings on the CPU, with the initial weights of `seed`.

    Args:
        shape: channels, height and width of an image.
        num_classes: classes in the data.

    Raises:
        ConfigError: `model.num_classes` is not the data's.
        DataError: the network does not take images of this shape.
    """
    if config.num_classes not in (None, num_classes):
        raise ConfigError(
            f"model.num_classes is {config.num_classes}, but the data has {num_classes} classes; leave it out"
        )
    arguments = config.model_dump(exclude={"name", "num_classes"})
    torch.manual_seed(seeds.derive(seed, "weights"))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # the next line says what is wrong
            model = find_model(config.name)(shape=shape, num_classes=num_classes, **arguments)
        _try_one_image(model, shape, num_classes)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]  # a bare assert says nothing
        raise DataError(
            f"model.name {config.name} does not take images of {'x'.join(map(str, shape))} "
            f"(channels, height, width): {reason}. Set data.resize or choose another model."
        ) from error
    return model


def find_model(name: str) -> Callable[..., nn.Module]:
    """Return what builds the network `name`; imports torchvision for its networks only."""
    if name.startswith("torchvision/"):
        from dist_train.models import torchvision_models

        return partial(torchvision_models.build, name.removeprefix("torchvision/"))
    return MODELS[name]


def rename_old_parameters(network: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state_dict of any version under the names that the network's parameters have today."""
    names = OLD_NAMES if isinstance(network, MnistCNN) else {}
    return {names.get(name, name): value for name, value in state_dict.items()}


def check_passes(network: nn.Module, example: Nest, fewest: int) -> None:
    """Check that no rank passes a single sample to batch normalisation in the middle of an epoch.

    Args:
        example: the inputs of one sample.
        fewest: samples in the smallest backward pass of the training.

    Raises:
        ConfigError: it is one sample, and a layer can't normalise over a single value.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # not those synchronised over ranks
    if fewest > 1 or not any(isinstance(layer, kinds) for layer in network.modules()):
        return
    weight = next(network.parameters())
    try:
        with torch.no_grad():
            copy.deepcopy(network).train()(move_inputs(example, weight.device))
    except ValueError as error:
        raise ConfigError(
            "data.global_batch: some rank gets a single sample in some backward pass, which this model's batch "
            "normalisation can't take. Change data.global_batch, data.limit_train or train.micro_batch so that no rank "
            "gets one, or start fewer ranks"
        ) from error


def _try_one_image(model: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    """Raise ValueError if the output for one image does not have the shape of logits; nothing random happens."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, *shape, dtype=torch.get_default_dtype()))
    model.train()
    if logits.shape != (1, num_classes):
        raise ValueError(f"it returns {list(logits.shape)} instead of [1, {num_classes}]")
