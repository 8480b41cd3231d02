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
    lend: Callable[[], Any]
    """Saves the state for `give_back` and returns it."""
    give_back: Callable[[Any], Any]
    """Restores a state that `lend` has returned."""


@cache
def _make_mersenne() -> Any:
    """Return what `numpy.random` draws from in reads: numpy takes long to copy the state of the program's own."""
    return np.random.MT19937(0)  # imported on use, with numpy.random


def _lend_numpy() -> Any:
    state = np.random.mtrand.get_bit_generator(), np.random.get_state(legacy=False)
    np.random.mtrand.set_bit_generator(_make_mersenne())
    return state


def _give_back_numpy(state: Any) -> None:
    generator, values = state
    np.random.mtrand.set_bit_generator(generator)
    if values["has_gauss"]:  # one of two numbers, which is kept for the next call
        np.random.set_state(values)


GENERATORS = (
    _Generator(random.seed, lambda: random.getrandbits(64), random.getstate, random.setstate),
    _Generator(
        lambda seed: np.random.seed(seed & 0xFFFFFFFF),
        lambda: (_make_mersenne().random_raw(), _make_mersenne().random_raw()),
        _lend_numpy,
        _give_back_numpy,
    ),
    # `torch.manual_seed` looks for devices too, which takes longer than most items.
    _Generator(
        torch.default_generator.manual_seed,
        lambda: torch.default_generator.get_state().numpy().tobytes(),
        torch.default_generator.get_state,
        torch.default_generator.set_state,
    ),
)
_is_lent = False
"""Whether reads use the generators now, whose states outside of reads are kept."""
_only_reads = False
"""Whether this process is a worker, which needs no states outside of reads."""


def seed_generators(seed: int) -> None:
    """Seed all of them with a number in [0, 2**63); torch's is that of the CPU."""
    for generator in GENERATORS:
        generator.seed(seed)


def leave_generators_to_reads() -> None:
    """Give no states back from now on, in a process that only reads."""
    global _only_reads
    _only_reads = True


@contextmanager
def kept_generators() -> Iterator[None]:
    """Give the generators the states back that they had before the block; within another one this does nothing."""
    global _is_lent
    if _is_lent:
        yield
        return
    states = [generator.lend() for generator in GENERATORS]
    _is_lent = True
    try:
        yield
    finally:
        if not _only_reads:
            for generator, state in zip(GENERATORS, states, strict=True):
                generator.give_back(state)
            _is_lent = False


@cache
def _peek_untouched() -> tuple[Any, ...]:
    """Return what each generator says if nothing was drawn since it was seeded with 0; leaves them changed."""
    seed_generators(0)
    return tuple(generator.peek() for generator in GENERATORS)


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
            untouched = _peek_untouched()
            while True:
                seed_generators(0)
                found = function(self._seed_each(keys, *where) if self._drawn else keys)
                others = zip(GENERATORS, untouched, strict=True)
                drawn = [each for each, first in others if each not in self._drawn and each.peek() != first]
                if not drawn:
                    return found
                self._drawn = (*self._drawn, *drawn)

    def _seed_each(self, keys: list[int], *where: int) -> Iterator[int]:
        for key in keys:
            seed = self._derive(*where, key)
            for generator in self._drawn:
                generator.seed(seed)
            yield key
