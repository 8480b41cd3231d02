"""Build the network of the settings. To add a model: its module here, a line in `MODELS`, its name in the settings."""

import copy
import importlib
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dist_train import seeds
from dist_train.errors import ConfigError, DataError
from dist_train.models.cifar_tutorial import CifarNet
from dist_train.models.head import find_head, replace_head
from dist_train.models.lenet import LeNet
from dist_train.models.mlp import MLP
from dist_train.models.mnist_cnn import OLD_NAMES, MnistCNN
from dist_train.models.mnist_example import MnistNet
from dist_train.models.resnet18 import ResNet
from dist_train.nest import Nest, move_inputs
from dist_train.own_code.load import call, check_call, load, shown_as_own
from dist_train.settings import schema
from dist_train.settings.schema import ImageModel, Model, OwnModel, TimmModel, TorchvisionModel

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "mnist_example": MnistNet,
    "mnist_cnn": MnistCNN,
    "cifar_tutorial": CifarNet,
    "resnet18": ResNet,
}
"""Each is called with `shape`, `num_classes` and the model's own settings, and returns logits [N, num_classes]."""


def build_model(
    config: Model, shape: tuple[int, int, int] | None, num_classes: int, seed: int, example: Nest | None = None
) -> nn.Module:
    """Return the network of the settings on the CPU, with the initial weights of `seed`.

    Args:
        shape: channels, height and width of an image; None if the data are not images of one shape.
        num_classes: classes in the data; 0 if the data name none.
        example: inputs of a sample, on which networks for inputs of any kind are tried. It gives lazy modules their
            shapes.

    Raises:
        ConfigError: `model.num_classes` is not the data's; or the user's code makes no network.
        DataError: the network does not take images of this shape.
        OwnCodeError: the user's code fails.
    """
    seeds.seed_generators(seeds.derive(seed, "weights"))
    if isinstance(config, OwnModel):
        return _build_own(config, num_classes, example)
    if isinstance(config, schema.MLP):
        return _build_mlp(config, num_classes, example)
    assert isinstance(config, ImageModel)  # noqa: S101
    if shape is None:
        raise ConfigError(
            f"model.name {config.name}: it takes images of one shape, [channels, height, width], and the samples are "
            "none; use a model of your own (model.name=nets.py:Net)"
        )
    if config.num_classes is not None and num_classes not in (0, config.num_classes):
        raise ConfigError(
            f"model.num_classes is {config.num_classes}, but the data has {num_classes} classes; leave it out"
        )
    if not (num_classes or config.num_classes):
        raise ConfigError("model.num_classes is missing, and the data set names no `classes`; set one of them")
    return _build_for_images(config, shape, config.num_classes or num_classes)


def _build_for_images(config: ImageModel, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    arguments = config.model_dump(exclude={*ImageModel.model_fields, "args"})
    if isinstance(config, TorchvisionModel | TimmModel):
        arguments["arguments"] = config.args
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # the next line says what is wrong
            model = find_model(config.name)(shape=shape, num_classes=num_classes, **arguments)
        _try_one_image(model, shape, num_classes)
    except TypeError as error:
        if not arguments.get("arguments"):
            raise
        raise ConfigError(f"model.args: {config.name} does not take them: {error}") from error
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]  # a bare assert says nothing
        raise DataError(
            f"model.name {config.name} does not take images of {'x'.join(map(str, shape))} "
            f"(channels, height, width): {reason}. Set data.resize or choose another model."
        ) from error
    return model


def _build_mlp(config: schema.MLP, num_classes: int, example: Nest | None) -> nn.Module:
    """Build fully connected layers for inputs like the example."""
    if config.outputs is not None and num_classes > config.outputs:
        raise ConfigError(f"model.outputs is {config.outputs}, but the data has {num_classes} classes; leave it out")
    if example is not None and not isinstance(example, Tensor):
        raise ConfigError(
            f"model.name mlp: it takes one tensor of numbers, and the samples are of the type {type(example).__name__};"
            " use a model of your own (model.name=nets.py:Net)"
        )
    network = MLP(config.outputs or num_classes or 1, config.hidden, config.activation, config.dropout)
    if example is not None:
        with torch.no_grad():
            network.eval()(example)
    return network.train()


def _build_own(config: OwnModel, num_classes: int, example: Nest | None) -> nn.Module:
    """Call the user's class or function, and try the network on the example."""
    if isinstance(found := load(config.name, "model.name"), nn.Module):
        raise ConfigError(
            f"model.name {config.name}: is a network already, of the class {type(found).__name__}; name the class, "
            "or a function that returns a new one"
        )
    network = call(config.name, "model.name", config.args)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"model.name {config.name}: gives a {type(network).__name__}, and no torch.nn.Module; name a class of "
            "modules, or a function that returns one"
        )
    if config.head is not None and num_classes:
        replace_head(network, find_head(network, config.head), num_classes)
    if fault := _find_fault(network):
        raise ConfigError(f"model.name {config.name}: {fault}")
    if not network._forward_pre_hooks:  # they may give more arguments
        check_call(network.forward, f"model.name {config.name}: its forward", "input")
    if example is not None:
        network.eval()
        with torch.no_grad(), shown_as_own(f"model.name {config.name}: a pass over the first sample"):
            network(example)
        network.train()
        for name, value in _list_values(network):
            if is_lazy(value):
                raise ConfigError(
                    f"model.name {config.name}: {name} has no shape after a pass over the first sample; let its layer "
                    "take part in each pass, or give its size"
                )
    return network


def _find_fault(network: nn.Module) -> str | None:
    """Describe why a network can't be trained, None if it can."""
    if absent := [name for name, value in _list_values(network) if value.is_meta]:
        return f"{absent[0]} is on the device meta, without values; make it on the CPU"
    if not any(parameter.requires_grad for parameter in network.parameters()):
        return "it has no parameter to train"
    if type(network).forward is nn.Module.forward and "forward" not in vars(network):
        return f"its class {type(network).__name__} has no forward(input)"
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            return f"{name or 'it'} has sparse gradients, which ranks can't add up; make it without sparse=True"
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            return f"its state_dict has {name}, a {type(value).__name__}; a checkpoint holds tensors only"
        if not is_lazy(value) and not torch.isfinite(value).all():
            return (
                f"{name} has values that are not finite, which no checkpoint may have; register a buffer that "
                "needs no saving with persistent=False"
            )
    return None


def _list_values(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def import_library(config: Model) -> None:
    """Import what a network needs beside torch; raises ConfigError if it is not there."""
    if isinstance(config, TorchvisionModel):
        importlib.import_module("torchvision")
    if isinstance(config, TimmModel):
        from dist_train.models import timm_models

        timm_models.import_timm(config.name.partition("/")[2])


def find_model(name: str) -> Callable[..., nn.Module]:
    """Return the function that builds the network `name` for images; imports torchvision or timm only if needed."""
    library, _, name_there = name.partition("/")
    if library == "torchvision":
        from dist_train.models import torchvision_models

        return partial(torchvision_models.build, name_there)
    if library == "timm":
        from dist_train.models import timm_models

        return partial(timm_models.build, name_there)
    return MODELS[name]


def rename_old_parameters(network: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state_dict of any version under the names that the network's parameters have today."""
    names = OLD_NAMES if isinstance(network, MnistCNN) else {}
    return {names.get(name, name): value for name, value in state_dict.items()}


def give_shapes(network: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Give lazy layers that have seen no sample the shapes of a state_dict; what it lacks becomes a scalar."""
    for name, value in _list_values(network):
        if is_lazy(value):
            value.materialize(state_dict[name].shape if name in state_dict else ())


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
            copy.deepcopy(network)(move_inputs(example, weight.device))
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
