"""Tensors side by side in one: an operation on all of them costs what an operation on one does.

A small network's step is a hundred short calls, and those for each weight (zero a gradient, add to its norm, update)
would be half of them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

ALIGNMENT = 16
"""Elements to a multiple of which places are rounded up, 64 bytes of fp32, as torch aligns a tensor of its own: kernels
are fastest there, and some sum in another order elsewhere."""


class FlatGradient(NamedTuple):
    """The gradients of some weights, side by side."""

    tensor: Tensor
    """Float [n]; each weight's `grad` is a part of it. What lies between them is zero."""
    weights: list[nn.Parameter]
    starts: list[int]
    """Where the gradient of each weight begins."""


def kind(weight: Tensor) -> tuple[torch.dtype, bool]:
    """What weights must have in common to be updated as one: their type, and whether they are single numbers.

    What an optimizer keeps for a single number can't be told from what it keeps once a weight.
    """
    return weight.dtype, weight.dim() == 0


def places(tensors: Iterable[Tensor]) -> tuple[list[int], int]:
    """Where tensors begin that are laid side by side, each aligned, and how many elements they take together."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.numel() // ALIGNMENT) * ALIGNMENT
    return starts, end


def views(flat: Tensor, tensors: Iterable[Tensor], starts: Iterable[int]) -> list[Tensor]:
    """Parts of `flat` in the shapes and memory formats of `tensors`."""
    pairs = zip(tensors, starts, strict=True)
    return [flat.as_strided(tensor.size(), tensor.stride(), start) for tensor, start in pairs]


def flat_gradient(weights: list[nn.Parameter]) -> FlatGradient:
    """Gradients of zero for weights of one dtype and device, which become their `grad`."""
    starts, size = places(weights)
    flat = FlatGradient(torch.zeros(size, dtype=weights[0].dtype, device=weights[0].device), weights, starts)
    for weight, view in zip(weights, views(flat.tensor, weights, starts), strict=True):
        weight.grad = view
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
            if gradient.storage_offset() == end and kind(found[-1].weights[-1]) == kind(weight):
                before, weights_before, starts = found.pop()
                flat = before.as_strided((before.numel() + gradient.numel(),), (1,))
                found.append(FlatGradient(flat, [*weights_before, weight], [*starts, before.numel()]))
            else:
                found.append(FlatGradient(gradient.as_strided((gradient.numel(),), (1,)), [weight], [0]))
            end = int(gradient.storage_offset()) + gradient.numel()
    return found
