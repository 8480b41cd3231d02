"""Trained weights that torchvision and timm have by name."""

from types import ModuleType

from torch import Tensor

from dist_train.errors import ConfigError
from dist_train.settings.schema import Model, TimmModel, TorchvisionModel
from dist_train.system.escape import escape


def fetch_weights(config: Model, weights: str) -> dict[str, Tensor] | None:
    """Return the weights of this name that a library has for its network; None if there are none of it.

    Raises:
        ConfigError: they can't be downloaded.
    """
    library = _find_library(config)
    name = config.name.partition("/")[2]
    if library is None or weights not in library.list_weights(name):
        return None
    try:
        found: dict[str, Tensor] = library.fetch_weights(name, weights)
    except (OSError, RuntimeError) as error:  # without a network; and a hash that differs
        raise ConfigError(
            f"model.weights {escape(weights)}: the weights of {config.name} can't be downloaded: {escape(error, 200)}. "
            "Download them where there is a network, and give the path of the file"
        ) from error
    return found


def list_weights(config: Model) -> list[str]:
    """Return the names of the weights that a library has for its network; empty for other networks."""
    library = _find_library(config)
    return library.list_weights(config.name.partition("/")[2]) if library else []


def _find_library(config: Model) -> ModuleType | None:
    if isinstance(config, TorchvisionModel):
        from dist_train.models import torchvision_models

        return torchvision_models
    if isinstance(config, TimmModel):
        from dist_train.models import timm_models

        return timm_models
    return None
