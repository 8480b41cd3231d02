"""Reads in which `random`, `numpy.random` and `torch` draw what the seed says, whoever reads and in which order."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

T = TypeVar("T")


class _Generator(NamedTuple):
    """A generator that libraries draw from."""

    seed: Callable[[int], Any]
    """Takes a number in [0, 2**63)."""
    read: Callable[[], Any]
    """Returns the state, to be compared or written."""
    write: Callable[[Any], Any]
    is_equal: Callable[[Any, Any], bool]


def _is_equal_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    first, second = one["state"], other["state"]
    is_same = one["has_gauss"] == other["has_gauss"] and first["pos"] == second["pos"]
    return is_same and np.array_equal(first["key"], second["key"])


GENERATORS = (
    _Generator(random.seed, random.getstate, random.setstate, lambda one, other: one == other),
    _Generator(
        lambda seed: np.random.seed(seed & 0xFFFFFFFF),
        lambda: np.random.get_state(legacy=False),
        lambda state: np.random.set_state(state),  # imported on use, with numpy.random
        _is_equal_state,
    ),
    # `torch.manual_seed` looks for devices too, which takes longer than most items.
    _Generator(
        torch.default_generator.manual_seed,
        torch.default_generator.get_state,
        torch.default_generator.set_state,
        torch.equal,
    ),
)


def seed_generators(seed: int) -> None:
    """Seed all of them with a number in [0, 2**63); torch's is that of the CPU."""
    for generator in GENERATORS:
        generator.seed(seed)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Give the generators the states back that they had before the block."""
    states = [generator.read() for generator in GENERATORS]
    try:
        yield
    finally:
        for generator, state in zip(GENERATORS, states, strict=True):
            generator.write(state)


class SeededReader:
    """Lets a function read some keys, each with generators whose seed is a function of the key."""

    def __init__(self, derive: Callable[..., int]) -> None:
        """`derive`: the seed of a key and what else it is read with."""
        self._derive = derive
        self._drawn: tuple[_Generator, ...] = ()

    def read(self, function: Callable[[Iterable[int]], list[T]], keys: list[int], *where: int) -> list[T]:
        """Return what a function reads for all keys, in order.

        To seed takes longer than to read a small tensor. So a generator is not seeded until a call has drawn from it;
        then the keys of that call are read again, with seeds, as those of all calls after it.

        Args:
            function: takes the keys one by one, and reads each before it takes the next.
        """
        with kept_generators():
            while True:
                seed_generators(0)
                others = [generator for generator in GENERATORS if generator not in self._drawn]
                before = [generator.read() for generator in others]
                found = function(self._seed_each(keys, *where) if self._drawn else keys)
                states = zip(others, before, strict=True)
                moved = [each for each, state in states if not each.is_equal(state, each.read())]
                if not moved:
                    return found
                self._drawn = (*self._drawn, *moved)

    def _seed_each(self, keys: list[int], *where: int) -> Iterator[int]:
        for key in keys:
            seed = self._derive(*where, key)
            for generator in self._drawn:
                generator.seed(seed)
            yield key
