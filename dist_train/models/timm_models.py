"""Any model of timm, with input channels and classes of the data."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from dist_train.errors import ConfigError


def build(name: str, shape: tuple[int, int, int], num_classes: int, arguments: Mapping[str, Any] = {}) -> nn.Module:
    """Return timm's network `name` for images of `shape` (channels, height, width); raises as `import_timm`."""
    timm = import_timm(name)
    network: nn.Module = timm.create_model(name, in_chans=shape[0], num_classes=num_classes, **arguments)
    return network


def import_timm(name: str) -> Any:
    """Return the package timm, in which there is a model `name`.

    Raises:
        ConfigError: timm is not installed, or has no such model.
    """
    try:
        import timm  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ConfigError(f"model.name timm/{name}: needs the package timm; pip install timm") from error
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        close = get_close_matches(name, known, 1)
        raise ConfigError(
            f"model.name timm/{name}: timm {timm.__version__} has no such model"
            + (f"; did you mean timm/{close[0]}?" if close else "; `timm.list_models()` lists them")
        )
    return timm
