"""Nests: tensors in tuples, lists, dicts and dataclasses, as batches and outputs of networks are."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

Nest = Any
"""A tensor, or tensors in tuples, lists, dicts and dataclasses, at any depth, beside other values."""


def map_tensors(function: Callable[[Tensor], Tensor], nest: Nest) -> Nest:
    """Return the nest with each tensor replaced by `function` of it."""
    if isinstance(nest, Tensor):
        return function(nest)
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        fields = [field.name for field in dataclasses.fields(nest) if field.init]
        return dataclasses.replace(nest, **{name: map_tensors(function, getattr(nest, name)) for name in fields})
    if isinstance(nest, MutableMapping):
        mapped = copy.copy(nest)
        mapped.update({key: map_tensors(function, value) for key, value in nest.items()})
        return mapped
    if isinstance(nest, tuple | list):
        values = [map_tensors(function, value) for value in nest]
        return nest._make(values) if hasattr(nest, "_make") else type(nest)(values)
    return nest


def list_tensors(nest: Nest) -> list[Tensor]:
    """Return all tensors of a nest, in order."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(collect, nest)
    return found


def split_nest(nest: Nest, split: Callable[[Tensor], Iterable[Tensor]]) -> Sequence[Nest]:
    """Split each tensor of a nest; return a nest for each part."""
    if isinstance(nest, Tensor):
        return list(split(nest))
    parts = zip(*(split(tensor) for tensor in list_tensors(nest)), strict=True)
    return [_replace_tensors(nest, iter(part)) for part in parts]


def _replace_tensors(nest: Nest, tensors: Iterator[Tensor]) -> Nest:
    return map_tensors(lambda _: next(tensors), nest)


def to_floats(nest: Nest) -> Nest:
    """Return the nest with its floats in at least fp32, so that a tie of low precision is one in every sum."""

    def convert(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor

    return map_tensors(convert, nest)


def move_inputs(nest: Nest, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Nest:
    """Return inputs on a device, images in a memory format."""

    def move(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device)
        return tensor.contiguous(memory_format=memory_format) if tensor.dim() == 4 else tensor

    return map_tensors(move, nest)
