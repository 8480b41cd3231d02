"""Freeze parameters, for some epochs or the whole run, and the statistics of their normalisation layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dist_train.errors import ConfigError
from dist_train.models.head import find_head
from dist_train.models.patterns import Names, explain_no_match, find_matches, list_names
from dist_train.settings.schema import Model

Frozen = dict[nn.Parameter, int | None]
"""Frozen parameters, each with the number of epochs after which it is trained; None: never."""


def find_frozen(config: Model, network: nn.Module) -> Frozen:
    """Find the parameters that `model.freeze` freezes, and when `model.unfreeze` ends that.

    Raises:
        ConfigError: a pattern matches no parameter, or none would be trained in the first epoch.
    """
    names = list_names(network)
    if config.freeze is None:
        return {}
    if config.freeze == "backbone":
        head = f"{find_head(network, config.head)}."
        frozen: Frozen = {parameter: None for parameter, each in names.items() if not each[0].startswith(head)}
    else:
        frozen = dict.fromkeys(_find("model.freeze", config.freeze, names))
    for epoch in sorted(map(int, config.unfreeze)):
        key = f"model.unfreeze: {epoch}"
        for parameter in _find(key, config.unfreeze[str(epoch)], {each: names[each] for each in frozen}):
            frozen[parameter] = frozen[parameter] or epoch
    if not any(parameter.requires_grad for parameter in names if parameter not in frozen):
        raise ConfigError(f"model.freeze: freezes all {len(names)} parameters, so that there is none to train")
    return frozen


def _find(key: str, patterns: tuple[str, ...], names: Names) -> list[nn.Parameter]:
    for pattern in patterns:
        if not find_matches(names, [pattern]):
            raise ConfigError(f"{key}: {explain_no_match(pattern, names)}")
    return find_matches(names, patterns)


def set_frozen(network: nn.Module, frozen: Mapping[nn.Parameter, int | None], epoch: int) -> None:
    """Let gradients reach the parameters that are trained after `epoch` epochs, and no others.

    Normalisation whose parameters are all frozen stays in evaluation mode: its statistics are part of them.
    """
    for parameter, end in frozen.items():
        parameter.requires_grad_(end is not None and epoch >= end)
    layers = dict(network.named_modules())
    for name, layer in layers.items() if frozen else ():
        if isinstance(layer, _NormBase):
            own = _list_parameters(layers, name)
            if own and all(parameter in frozen for parameter in own):
                layer.train(any(parameter.requires_grad for parameter in own))


def keeps_statistics(layer: nn.Module) -> bool:
    """Whether a layer is normalisation that a training leaves in evaluation mode."""
    return isinstance(layer, _NormBase) and not layer.training


def _list_parameters(layers: Mapping[str, nn.Module], name: str) -> list[nn.Parameter]:
    """Return the parameters of a layer; of one without any, those of the module that it is in."""
    while not (found := list(layers[name].parameters())) and name:
        name = name.rpartition(".")[0]
    return found


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """A block in which all layers are in evaluation mode; after it each has its own mode again."""
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        network.train(modes[0][1])
        for layer, mode in modes:
            layer.training = mode
