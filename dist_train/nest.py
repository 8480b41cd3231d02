"""Nests: tensors in tuples, lists, dicts and dataclasses, as batches and outputs of networks are."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Nest = Any
"""A tensor, or tensors in tuples, lists, dicts and the dataclasses that torch knows, at any depth."""


def map_tensors(function: Callable[[Tensor], Tensor], nest: Nest) -> Nest:
    """Return the nest with each tensor replaced by `function` of it."""
    return function(nest) if isinstance(nest, Tensor) else pytree.tree_map_only(Tensor, function, nest)


def list_tensors(nest: Nest) -> list[Tensor]:
    """Return all tensors of a nest, in order."""
    return [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)]


def split_nest(nest: Nest, split: Callable[[Tensor], Iterable[Tensor]]) -> Sequence[Nest]:
    """Return the parts of a nest of which `split` makes the parts of each tensor."""
    if isinstance(nest, Tensor):
        return list(split(nest))
    leaves, structure = pytree.tree_flatten(nest)
    parts = zip(*(split(leaf) for leaf in leaves), strict=True)
    return [pytree.tree_unflatten(part, structure) for part in parts]


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
