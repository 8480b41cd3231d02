"""Tensors side by side in one: an operation on all of them costs what an operation on one does.

A small network's step is a hundred short calls, and those for each weight (zero a gradient, add to its norm, update)
would be half of them.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class FlatGradient(NamedTuple):
    """The gradients of some weights, side by side."""

    tensor: Tensor
    """Float [n]; each weight's `grad` is a part of it."""
    weights: list[nn.Parameter]
    """In the order in which their gradients lie."""


def views(flat: Tensor, tensors: Iterable[Tensor]) -> list[Tensor]:
    """Parts of `flat` in the shapes and memory formats of `tensors`, one behind the other."""
    parts, start = [], 0
    for tensor in tensors:
        parts.append(flat.as_strided(tensor.size(), tensor.stride(), start))
        start += tensor.numel()
    return parts


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """A flat copy of tensors of one dtype and device, each in its memory format."""
    flat = torch.empty(sum(tensor.numel() for tensor in tensors), dtype=tensors[0].dtype, device=tensors[0].device)
    for view, tensor in zip(views(flat, tensors), tensors, strict=True):
        view.copy_(tensor)
    return flat


def neighbours(weights: Iterable[nn.Parameter]) -> list[FlatGradient]:
    """The gradients of weights as they lie in memory, as few pieces as there are: DDP's lie side by side.

    Their order must not depend on addresses, which differ from process to process.
    """
    storages: dict[int, list[tuple[Tensor, nn.Parameter]]] = {}
    for weight in weights:
        if weight.grad is not None:
            storages.setdefault(weight.grad.untyped_storage().data_ptr(), []).append((weight.grad, weight))
    found: list[FlatGradient] = []
    for pairs in storages.values():
        end = -1
        for gradient, weight in sorted(pairs, key=lambda pair: pair[0].storage_offset()):
            if gradient.storage_offset() == end:
                before, owners = found.pop()
                flat = before.as_strided((before.numel() + gradient.numel(),), (1,))
                found.append(FlatGradient(flat, [*owners, weight]))
            else:
                found.append(FlatGradient(gradient.as_strided((gradient.numel(),), (1,)), [weight]))
            end = int(gradient.storage_offset()) + gradient.numel()
    return found
