"""Which part of a network's output a loss gets, and what is said of one that does not fit."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dist_train.errors import ConfigError
from dist_train.nest import Nest, list_tensors
from dist_train.system.escape import escape


def select(output: Nest, field: str | int | None, key: str = "loss.output") -> Nest:
    """Return a field of a network's output: a key, an attribute, or a place in a tuple.

    Raises:
        ConfigError: it has no such field.
    """
    if field is None:
        return output
    if isinstance(output, Mapping) and field in output:
        return output[field]
    if isinstance(output, tuple | list) and str(field).isdecimal() and int(field) < len(output):
        return output[int(field)]
    if not isinstance(output, Tensor | Mapping) and isinstance(field, str) and hasattr(output, field):
        return getattr(output, field)
    raise ConfigError(f"{key} is {escape(field)}, but the network's output is {describe(output)}")


@contextmanager
def refuse_changes(what: str, output: Nest, targets: Nest) -> Iterator[None]:
    """Raise ConfigError if a block of the user's code changes a tensor in place: others get it after that block."""
    nests = {"output": output, "target": targets}
    versions = [(name, tensor, _read_version(tensor)) for name, nest in nests.items() for tensor in list_tensors(nest)]
    yield
    for name, tensor, version in versions:
        if _read_version(tensor) != version:
            raise ConfigError(
                f"{what}: changes the {name} in place, and the metrics after it would get what it has left; change a "
                f"copy instead, made by {name}.clone()"
            )


def _read_version(tensor: Tensor) -> int | None:
    """Return the number of changes in place; None where torch does not count them."""
    return None if tensor.is_inference() else tensor._version


def describe(value: Any) -> str:
    """`float32 [2, 10]` for a tensor; of other values the type and what it holds."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"a {type(value).__name__} with {', '.join(field.name for field in dataclasses.fields(value))}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {escape(', '.join(map(str, value)), 200) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(map(describe, value[:4])) or 'nothing'}"
    return f"a {type(value).__name__}"


def describe_both(output: Any, targets: Any) -> str:
    """Say what the output and the target are, for a message that they do not fit."""
    hint = "" if isinstance(output, Tensor) else "; loss.output=NAME names the field that the loss and metrics get"
    return f"the output is {describe(output)} and the target {describe(targets)}{hint}"


def find_label_misfit(output: Any, targets: Any) -> str | None:
    """Describe why these are no logits, float [B, C, ...], and labels, int [B, ...], or shares of classes like them."""
    wanted = "it needs logits [B, classes] and labels, integers [B]"
    if not (isinstance(output, Tensor) and isinstance(targets, Tensor) and output.is_floating_point()):
        return wanted
    if output.dim() > 1 and output.shape[1] < 2:
        return f"{wanted}, of two classes at least; task=regression or task=multilabel for numbers"
    if targets.is_floating_point():
        return None if targets.shape == output.shape else wanted
    if output.dim() < 2 or targets.shape != (output.shape[0], *output.shape[2:]):
        return wanted
    return None


def find_label_out_of_range(output: Tensor, targets: Tensor, ignored: int | None = None) -> str | None:
    """Describe the labels if one of them is not the number of a class."""
    labels = targets if ignored is None else targets[targets != ignored]
    if targets.is_floating_point() or not labels.numel():
        return None
    low, high, classes = int(labels.min()), int(labels.max()), output.shape[1]
    if low >= 0 and high < classes:
        return None
    skip = "; loss.args.ignore_index=-100 leaves out such labels" if low == -100 else ""
    return f"there are labels from {low} to {high}, but the output has {classes} classes, 0 to {classes - 1}{skip}"


def find_shares_misfit(targets: Tensor) -> str | None:
    """Describe targets of floats that are no shares of classes, which lie between 0 and 1; a GPU waits for this."""
    if not targets.is_floating_point() or not targets.numel():
        return None
    low, high = float(targets.min()), float(targets.max())
    if low >= 0 and high <= 1:
        return None
    return (
        f"targets of floats are shares of classes, between 0 and 1, and these are {low:g} to {high:g}; use "
        "task=regression for numbers, and integers for labels"
    )


def align(output: Any, targets: Any) -> Tensor | None:
    """Return the target in the type and shape of the output, where one number a sample may be [B] or [B, 1].

    None if they do not fit. Nothing is spread over other dimensions.
    """
    if not (isinstance(output, Tensor) and isinstance(targets, Tensor)) or not (
        output.is_complex() or (output.is_floating_point() and not targets.is_complex())
    ):
        return None
    if output.shape not in (targets.shape, (*targets.shape, 1)) and targets.shape != (*output.shape, 1):
        return None
    return targets.reshape(output.shape).to(output.dtype)


def to_labels(targets: Tensor) -> Tensor:
    """Return the number of each target's class, int64: of shares of classes that of the largest."""
    return targets.argmax(dim=1) if targets.is_floating_point() else targets.to(torch.int64)
