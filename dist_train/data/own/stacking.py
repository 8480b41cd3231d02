"""Stack items of a data set to a batch, and describe, hash and measure batches."""

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from dist_train.nest import Nest, list_tensors, map_tensors

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Types of as many bytes."""


class StackingError(ValueError):
    """Items that can't be stacked; `position` is that of the item among those given."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


def stack_items(items: Sequence[Any], place: str = "item") -> Nest:
    """Stack items of one structure: each tensor, number, array and picture gets a first dimension.

    Tuples, dicts and dataclasses stay what they are; texts become a list. A picture becomes floats from 0 to 1,
    [C, H, W]. A Python float gets torch's default dtype; all else keeps its own.

    Args:
        place: how the items are called in a message.

    Raises:
        StackingError: an item has another structure than the first, or holds what has no tensor.
    """
    first = items[0]
    if isinstance(first, Tensor):
        return _stack_tensors(items, place)
    if isinstance(first, np.ndarray | np.generic):
        _check_equal(items, place, np.ndarray | np.generic, lambda each: (each.dtype, each.shape))
        return _convert_arrays(items, place)
    if is_picture(first):
        return stack_items([_convert_picture(each, number, place) for number, each in enumerate(items)], place)
    if isinstance(first, bool | int | float | complex):
        _check_equal(items, place, type(first), type)
        try:
            return torch.tensor(items)
        except RecursionError:
            raise
        except (ValueError, RuntimeError, OverflowError) as error:
            raise StackingError(0, f"{place} is a number that no tensor can hold: {error}") from error
    if isinstance(first, str | bytes):
        _check_equal(items, place, type(first), type)
        return list(items)
    return _stack_parts(items, place)


def _stack_tensors(items: Sequence[Any], place: str) -> Tensor:
    """Stack tensors of one type and shape, in a worker directly into shared memory."""
    try:
        if len({each.dtype for each in items}) == 1:
            return default_collate(list(items))  # type: ignore[no-any-return]
    except RecursionError:
        raise
    except (AttributeError, TypeError, RuntimeError) as error:
        for position, each in enumerate(items):
            if isinstance(each, Tensor) and (fault := find_tensor_fault(each)):
                raise StackingError(position, f"{place} can't be stacked: the tensor is {fault}") from error
        _check_equal(items, place, Tensor, lambda each: (each.dtype, each.shape))
        raise StackingError(0, f"{place} can't be stacked with others: {str(error).rstrip('.')}") from error
    _check_equal(items, place, Tensor, lambda each: (each.dtype, each.shape))
    raise AssertionError("tensors of several types are not equal")


def take_rows(tensor: Tensor, numbers: Tensor) -> Tensor:
    """Return the rows of these numbers, int64 [B], as `index_select` does; torch 2.11 has none of unsigned integers."""
    signed = _SIGNED.get(tensor.dtype)
    if signed is None:
        return tensor.index_select(0, numbers)
    return tensor.view(signed).index_select(0, numbers).view(tensor.dtype)


def _stack_parts(items: Sequence[Any], place: str) -> Nest:
    """Stack items that are made of parts."""
    first = items[0]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        _check_equal(items, place, type(first), type)
        names = [field.name for field in dataclasses.fields(first) if field.init]
        parts = {name: stack_items([getattr(each, name) for each in items], f"{place}.{name}") for name in names}
        return dataclasses.replace(first, **parts)
    if isinstance(first, Mapping):
        _check_equal(items, place, Mapping, lambda each: each.keys())
        return {key: stack_items([each[key] for each in items], f"{place}[{key!r}]") for key in first}
    if isinstance(first, tuple | list):
        _check_equal(items, place, type(first), len)
        columns = [stack_items(column, f"{place}[{n}]") for n, column in enumerate(zip(*items, strict=True))]
        return first._make(columns) if hasattr(first, "_make") else type(first)(columns)
    raise StackingError(0, f"{place} is a {type(first).__name__}, which is no tensor, number, array or picture")


def _check_equal(items: Sequence[Any], place: str, kind: Any, describe: Any) -> None:
    """Raise StackingError for the first item that is not of this kind, or that `describe` tells from the first."""
    expected = describe(items[0])
    for position, each in enumerate(items):
        if not isinstance(each, kind) or describe(each) != expected:
            raise StackingError(
                position, f"{place} is {describe_value(each)}, and that of another item is {describe_value(items[0])}"
            )


def _convert_arrays(arrays: Sequence[Any], place: str) -> Tensor:
    try:
        return torch.from_numpy(np.stack(arrays))
    except TypeError as error:
        raise StackingError(0, f"{place} is {describe_value(arrays[0])}, which torch has no tensor for") from error


def _convert_picture(picture: Any, position: int, place: str) -> Tensor:
    """Return a picture as float [C, H, W] from 0 to 1, as torchvision's ToTensor does."""
    from torchvision.transforms import functional

    if not is_picture(picture):
        raise StackingError(position, f"{place} is {describe_value(picture)}, and that of another item is a picture")
    tensor: Tensor = functional.to_tensor(picture)
    return tensor


def find_tensor_fault(tensor: Tensor) -> str | None:
    """Return what keeps a tensor from being sent between processes and compared; None if nothing does."""
    if tensor.is_meta:
        return "on the device meta"
    if tensor.is_nested or tensor.is_quantized:
        return "nested" if tensor.is_nested else "quantized"
    return None if tensor.layout == torch.strided else f"of the layout {str(tensor.layout).removeprefix('torch.')}"


def is_picture(value: Any) -> bool:
    """Whether a value is a PIL picture; PIL is not imported where there is none."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def describe_value(value: Any) -> str:
    """Describe the structure of an item or of a part, such as `(float32 [3, 8, 8], int)`."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if is_picture(value):
        return f"picture {value.mode} {value.size[0]}x{value.size[1]}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [f"{field.name}={describe_value(getattr(value, field.name))}" for field in dataclasses.fields(value)]
        return f"{type(value).__name__}({', '.join(inner)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {describe_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        inner = [describe_value(each) for each in value]
        return f"({', '.join(inner)})" if isinstance(value, tuple) else f"[{', '.join(inner)}]"
    return type(value).__name__


def describe_samples(batch: Nest) -> str:
    """Describe the first sample of a batch, such as `(float32 [3, 8, 8], int64 [])`."""
    return describe_value(map_tensors(lambda tensor: tensor[0] if tensor.dim() and len(tensor) else tensor, batch))


def compute_digest(nest: Nest) -> str:
    """Return the SHA-256 of the types, shapes and values of all tensors of a nest."""
    digest = hashlib.sha256()
    for tensor in list_tensors(nest):
        digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_bytes(nest: Nest) -> int:
    """Return the bytes of all tensors of a nest."""
    return sum(tensor.numel() * tensor.element_size() for tensor in list_tensors(nest))
