"""Seed `random`, `numpy.random` and `torch` for each item, so that its random numbers depend on the seed only."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

T = TypeVar("T")


class _Generator(NamedTuple):
    """A generator that libraries draw from."""

    seed: Callable[[int], Any]
    """Takes a number in [0, 2**63)."""
    peek: Callable[[], Any]
    """Returns a value that depends on the seed and changes with every draw. May draw itself."""
    save_state: Callable[[], Any]
    """Saves the state for `restore_state` and returns it."""
    restore_state: Callable[[Any], Any]
    """Restores a state that `save_state` has returned."""


@cache
def _make_mersenne() -> Any:
    """Return the generator that replaces `numpy.random`'s in reads: copying the state of the original takes long."""
    return np.random.MT19937(0)  # imported on use, with numpy.random


def _save_numpy_state() -> Any:
    state = np.random.mtrand.get_bit_generator(), np.random.get_state(legacy=False)
    np.random.mtrand.set_bit_generator(_make_mersenne())
    return state


def _restore_numpy_state(state: Any) -> None:
    generator, values = state
    np.random.mtrand.set_bit_generator(generator)
    if values["has_gauss"]:  # one of two numbers, which is kept for the next call
        np.random.set_state(values)


GENERATORS = (
    _Generator(random.seed, lambda: random.getrandbits(64), random.getstate, random.setstate),
    _Generator(
        lambda seed: np.random.seed(seed & 0xFFFFFFFF),
        lambda: (_make_mersenne().random_raw(), _make_mersenne().random_raw()),
        _save_numpy_state,
        _restore_numpy_state,
    ),
    # `torch.manual_seed` looks for devices too, which takes longer than most items.
    _Generator(
        torch.default_generator.manual_seed,
        lambda: torch.default_generator.get_state().numpy().tobytes(),
        torch.default_generator.get_state,
        torch.default_generator.set_state,
    ),
)
_are_isolated = False
"""Whether reads use the generators now; their other states are saved."""
_only_reads = False
"""Whether this process is a worker, in which the states outside of reads are not needed."""


def seed_isolated_generators(seed: int) -> None:
    """Seed `random`, the replacement of `numpy.random`'s generator, and torch on the CPU; `seed` in [0, 2**63)."""
    for generator in GENERATORS:
        generator.seed(seed)


def never_restore_generators() -> None:
    """Restore no states from now on, in a process that only reads."""
    global _only_reads
    _only_reads = True


@contextmanager
def isolate_generators() -> Iterator[None]:
    """Restore the generators' states after the block; a nested block does nothing."""
    global _are_isolated
    if _are_isolated:
        yield
        return
    states = [generator.save_state() for generator in GENERATORS]
    _are_isolated = True
    try:
        yield
    finally:
        if not _only_reads:
            for generator, state in zip(GENERATORS, states, strict=True):
                generator.restore_state(state)
            _are_isolated = False


@cache
def _peek_untouched() -> tuple[Any, ...]:
    """Return each generator's value of `peek` right after it was seeded with 0; changes their states."""
    seed_isolated_generators(0)
    return tuple(generator.peek() for generator in GENERATORS)


class SeededReader:
    """Calls a function that reads keys, each with generators whose seed is a function of the key."""

    def __init__(self, derive: Callable[..., int]) -> None:
        """`derive`: returns the seed of (*position, key)."""
        self._derive = derive
        self._drawn: tuple[_Generator, ...] = ()

    def read(self, function: Callable[[Iterable[int]], list[T]], keys: list[int], *position: int) -> list[T]:
        """Return what a function reads for all keys, in order.

        To seed takes longer than to read a small tensor. So a generator is not seeded until a call has drawn from it;
        then the keys of that call are read again, with seeds, as those of all calls after it.

        Args:
            function: takes the keys one by one, and reads each before it takes the next.
        """
        with isolate_generators():
            untouched = _peek_untouched()
            while True:
                seed_isolated_generators(0)
                found = function(self._seed_each(keys, *position) if self._drawn else keys)
                others = zip(GENERATORS, untouched, strict=True)
                drawn = [each for each, first in others if each not in self._drawn and each.peek() != first]
                if not drawn:
                    return found
                self._drawn = (*self._drawn, *drawn)

    def _seed_each(self, keys: list[int], *position: int) -> Iterator[int]:
        for key in keys:
            seed = self._derive(*position, key)
            for generator in self._drawn:
                generator.seed(seed)
            yield key
