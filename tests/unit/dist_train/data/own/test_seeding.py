"""What items draw is a function of the seed and their number, whatever was read before."""

# ruff: noqa: S311

import random
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dist_train import seeds
from dist_train.data.own.seeding import SeededReader

DRAWS: dict[str, Any] = {
    "random": lambda: random.uniform(0, 1),
    "numpy": lambda: float(np.random.rand()),
    "numpy's normal": lambda: float(np.random.randn()),
    "torch": lambda: torch.rand(()).item(),
    "all": lambda: (random.gauss(0, 1), np.random.randint(9), torch.randn(3).tolist()),
    "seeds by itself": lambda: (random.seed(1), np.random.seed(2), torch.manual_seed(3), random.uniform(0, 1))[3],
}


def states() -> tuple[Any, ...]:
    numpy = np.random.get_state(legacy=False)
    return random.getstate(), str(numpy), torch.get_rng_state().tolist()


def reader() -> SeededReader:
    return SeededReader(partial(seeds.derive, 7, "test"))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_an_item_draws_the_same_whatever_else_is_read(draw: Any) -> None:
    expected = reader().read(lambda keys: [draw() for _ in keys], list(range(8)), 0)
    for keys in ([3], [7, 0], [5, 5, 1], list(range(7, -1, -1))):
        assert reader().read(lambda keys: [draw() for _ in keys], keys, 0) == [expected[key] for key in keys]
    used = reader()
    used.read(lambda keys: [draw() for _ in keys], [2], 1)
    assert used.read(lambda keys: [draw() for _ in keys], [4, 6], 0) == [expected[4], expected[6]]


@pytest.mark.parametrize("name", ["random", "numpy", "numpy's normal", "torch", "all"])
def test_epochs_and_items_draw_differently(name: str) -> None:
    found = [
        value
        for epoch in (0, 1)
        for value in reader().read(lambda keys: [DRAWS[name]() for _ in keys], [0, 1, 2], epoch)
    ]
    assert len({str(value) for value in found}) == 6


@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_the_generators_are_left_as_they_were(draw: Any) -> None:
    with seeds.preserve_generators():
        seeds.seed_generators(11)
        np.random.randn()  # one of two numbers is kept for the next call
        before = states()
        reader().read(lambda keys: [draw() for _ in keys], [1, 2], 0)
        with pytest.raises(ZeroDivisionError):
            reader().read(lambda keys: [draw() and 1 // 0 for _ in keys], [1], 0)
        assert states() == before


def test_items_that_draw_late_are_read_again_with_their_seeds() -> None:
    """Those that draw nothing need no seeds, and are read once."""
    calls: list[int] = []

    def read(keys: Iterable[int]) -> list[float]:
        return [read_one(key) for key in keys]

    def read_one(key: int) -> float:
        calls.append(key)
        return random.uniform(0, 1) if key == 5 else 0.0

    used = reader()
    assert used.read(read, [0, 1, 2], 0) == [0, 0, 0]
    late = used.read(read, [4, 5], 0)
    assert calls == [0, 1, 2, 4, 5, 4, 5]  # only the generator that was drawn from is seeded
    assert late == [0, *reader().read(read, [5], 0)]
    calls.clear()
    assert used.read(read, [4, 5], 0) == late
    assert calls == [4, 5]
