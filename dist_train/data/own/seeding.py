"""Reads in which `random`, `numpy.random` and `torch` draw what the seed says, whoever reads and in which order."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class _States(NamedTuple):
    """The states of the three generators that libraries draw from."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: Tensor


def seed_generators(seed: int) -> None:
    """Seed `random`, `numpy.random` and torch's generator of the CPU with a number in [0, 2**63)."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # `torch.manual_seed` looks for devices too, which takes longer than most items.
    torch.default_generator.manual_seed(seed)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Give the generators the states back that they had before the block."""
    states = _read_states()
    try:
        yield
    finally:
        random.setstate(states.python)
        np.random.set_state(states.numpy)
        torch.default_generator.set_state(states.torch)


class SeededReader:
    """Calls a function for some keys, each with generators whose seed is a function of the key."""

    def __init__(self, derive: Callable[..., int]) -> None:
        """`derive`: the seed of a key and what else it is read with."""
        self._derive = derive
        self._draws = False

    def read(self, function: Callable[[int], Any], keys: list[int], *where: int) -> list[Any]:
        """Return the results for all keys, in order.

        To seed takes longer than to read a small tensor. So nothing is seeded until a call has drawn something; the
        results of that call are read again, with seeds, as those of all calls after it.
        """
        with kept_generators():
            if not self._draws:
                seed_generators(0)
                before = _read_states()
                found = [function(key) for key in keys]
                self._draws = not _is_equal(before, _read_states())
                if not self._draws:
                    return found
            return [self._read_seeded(function, key, *where) for key in keys]

    def _read_seeded(self, function: Callable[[int], Any], key: int, *where: int) -> Any:
        seed_generators(self._derive(*where, key))
        return function(key)


def _read_states() -> _States:
    return _States(random.getstate(), np.random.get_state(legacy=False), torch.default_generator.get_state())


def _is_equal(one: _States, other: _States) -> bool:
    return (
        one.python == other.python
        and one.numpy["state"]["pos"] == other.numpy["state"]["pos"]
        and np.array_equal(one.numpy["state"]["key"], other.numpy["state"]["key"])
        and one.numpy["has_gauss"] == other.numpy["has_gauss"]
        and torch.equal(one.torch, other.torch)
    )
