"""A random permutation that is computed at any position, so that no epoch's order has to be drawn or stored.

A Feistel network with cycle walking, as in Mitchell et al., "Bandwidth-optimal random shuffling for GPUs"
(arXiv:2106.06161). A position is two digits, left and right, in a base whose square is just above the length. A round
replaces (left, right) by (right, left + f(right)), which can be undone whatever f is, so any number of rounds is a
permutation of all pairs of digits. A result outside the range is permuted again until it is inside (cycle walking).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from dist_train import seeds

ROUNDS = 12
"""With 12 rounds each of the 24 permutations of 4 positions has a probability within 0.1 % of 1/24; with 8, 1.6 %."""


def permute(positions: Tensor, length: int, seed: int, epoch: int) -> Tensor:
    """Return the samples at these positions in the random order of an epoch.

    The order is a permutation of range(length) that depends on (length, seed, epoch) only. The cost is linear in the
    number of positions; memory is proportional to the square root of the length.

    Args:
        positions: int64 [B], on the CPU.

    Returns:
        int64 [B], on the CPU.

    Raises:
        IndexError: a position is not in range(length).
    """
    if len(positions) == 0:
        return positions
    low, high = (int(bound) for bound in torch.aminmax(positions))
    if low < 0 or high >= length:
        raise IndexError(f"positions from {low} to {high} are not in range({length})")
    functions = _round_functions(_base(length), seed, epoch)
    permuted = _permute_pairs(positions, functions)
    outside = (permuted >= length).nonzero().flatten()
    while len(outside):
        walked = _permute_pairs(permuted[outside], functions)
        permuted[outside] = walked
        outside = outside[walked >= length]
    return permuted


def _base(length: int) -> int:
    """The smallest even number whose square is at least `length`.

    Even, because with an odd base each round is a permutation of the same parity, and half of all permutations are out
    of reach.
    """
    root = math.isqrt(length - 1) + 1
    return root + root % 2


@lru_cache(maxsize=4)
def _round_functions(base: int, seed: int, epoch: int) -> Tensor:
    """Random values of the function of each round for each digit: int64 [ROUNDS, base] in range(base)."""
    rounds = [f"order-{number}" for number in range(ROUNDS)]
    return seeds.random_bits(seed, rounds, epoch, torch.arange(base)) % base


@lru_cache(maxsize=4)
def _remainders(base: int) -> Tensor:
    """The remainder of each sum of two digits, int64 [2 * base]: to look it up is faster than to divide."""
    return torch.arange(2 * base) % base


def _permute_pairs(numbers: Tensor, functions: Tensor) -> Tensor:
    """Permute range(base**2): int64 [B] -> int64 [B]."""
    base = functions.shape[1]
    remainders = _remainders(base)
    left, right = numbers // base, numbers % base
    for function in functions:
        left, right = right, remainders.index_select(0, function.index_select(0, right).add_(left))
    return left.mul_(base).add_(right)
