"""The last layer of a network: found by position or name, and replaced where the data have other classes."""

from difflib import get_close_matches

from torch import nn
from torch.nn.parameter import is_lazy

from dist_train.errors import ConfigError
from dist_train.system.escape import escape

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def find_head(network: nn.Module, wanted: str | None) -> str:
    """Return the name of the last layer: that of `model.head`, else the linear or convolution that is defined last.

    Raises:
        ConfigError: there is none.
    """
    layers = {name: layer for name, layer in network.named_modules() if name}
    if wanted is not None and wanted != "new":
        if wanted in layers:
            return wanted
        close = get_close_matches(wanted, layers, 1)
        guess = f"did you mean {escape(close[0])}?" if close else "dist-train model prints its layers"
        raise ConfigError(f"model.head is {escape(wanted)}: the network has no layer of this name; {guess}")
    found = [name for name, layer in layers.items() if isinstance(layer, _KINDS)]
    if not found:
        raise ConfigError("model.head: the network has no linear layer and no convolution; give the layer's name")
    return str(found[-1])


def count_outputs(layer: nn.Module) -> int | None:
    """Return how many outputs a layer has; None for kinds of layers where this is not known."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) else None


def replace_head(network: nn.Module, name: str, outputs: int) -> None:
    """Replace the last layer by a new one of the same kind with as many `outputs`, unless it has as many.

    Raises:
        ConfigError: it is of a kind that can't be replaced.
    """
    layer = network.get_submodule(name)
    if count_outputs(layer) == outputs:
        return
    if type(layer) not in _KINDS or any(map(is_lazy, layer.parameters())):
        raise ConfigError(
            f"model.head: {escape(name)} is a {type(layer).__name__}, which can't be replaced by one with {outputs} "
            f"outputs, the classes of the data; name one of {', '.join(kind.__name__ for kind in _KINDS)}, or let "
            "model.args set its outputs"
        )
    parent, _, attribute = name.rpartition(".")
    new = _copy_form(layer, outputs).to(next(layer.parameters()).dtype)
    setattr(network.get_submodule(parent), attribute, new)


def _copy_form(layer: nn.Module, outputs: int) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, outputs, bias=layer.bias is not None)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)  # noqa: S101
    return type(layer)(
        layer.in_channels,
        outputs,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )
