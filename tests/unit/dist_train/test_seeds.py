"""Randomness as a function: the same for ever, cut anywhere, and nothing that one purpose shares with another."""

import pytest
import torch
from torch import Tensor

from dist_train import seeds

_MOST = 37.70  # the 0.999 quantile of chi-square at 15 degrees of freedom
_MASK = 2**64 - 1


def _splitmix64(position: int) -> int:
    """The published generator, in integers that do not wrap by themselves."""
    z = position & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def bits(seed: int, purpose: str, epoch: int, indices: Tensor) -> Tensor:
    """Of one purpose alone."""
    return seeds.random_bits(seed, (purpose,), epoch, indices)[0]


def _chi_square(counts: Tensor) -> float:
    expected = counts.sum() / counts.numel()
    return float(((counts - expected) ** 2 / expected).sum())


def test_golden_values_hold() -> None:
    """A change here changes the weights, the order or the augmentation of every run that anybody repeats."""
    assert seeds.derive(0, "order", 0) == 5322647907970258854
    assert torch.randperm(10, generator=seeds.generator(0, "order", 0)).tolist() == [9, 2, 6, 1, 3, 7, 5, 4, 8, 0]
    assert bits(0, "flip", 3, torch.arange(4)).tolist() == [1674679443, 497315954, 333772900, 762238905]


@pytest.mark.parametrize(
    "other", [(1, "order", 0), (0, "weights", 0), (0, "order", 1), (0, "order"), (0, "order", 0, 0)]
)
def test_every_part_of_a_place_counts(other: tuple[int, str, int]) -> None:
    assert seeds.derive(*other) != seeds.derive(0, "order", 0)


def test_parts_do_not_run_together() -> None:
    assert seeds.derive(1, "step", 1, 11) != seeds.derive(1, "step", 11, 1)
    assert seeds.derive(1, "step", 11) != seeds.derive(11, "step", 1)


def test_derived_seeds_fit_a_generator() -> None:
    values = [seeds.derive(2**63 - 1, "order", epoch) for epoch in range(1000)]
    assert all(0 <= value < 2**63 for value in values)
    assert len(set(values)) == 1000


def test_random_bits_are_those_of_splitmix64() -> None:
    key = seeds.derive(7, "crop", 2) << 1
    indices = [0, 1, 2, 59_999, 2**31, 2**40]
    expected = [_splitmix64(key + index * 0x9E3779B97F4A7C15) >> 33 for index in indices]
    assert bits(7, "crop", 2, torch.tensor(indices)).tolist() == expected


def test_random_bits_of_several_purposes_are_those_of_each() -> None:
    together = seeds.random_bits(7, ("crop", "flip"), 2, torch.arange(9))
    assert torch.equal(together, torch.stack([bits(7, purpose, 2, torch.arange(9)) for purpose in ("crop", "flip")]))


def test_random_bits_do_not_depend_on_the_batch() -> None:
    indices = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    whole = bits(0, "flip", 0, indices)
    for size in (1, 7, 64):
        parts = [bits(0, "flip", 0, indices[at : at + size]) for at in range(0, 1000, size)]
        assert torch.equal(torch.cat(parts), whole)
    in_order = bits(0, "flip", 0, torch.arange(1000))
    assert torch.equal(in_order[indices], whole)


@pytest.mark.parametrize("shift", [0, 27], ids=["lowest bits", "highest bits"])
def test_random_bits_are_uniform(shift: int) -> None:
    drawn = bits(0, "flip", 0, torch.arange(1 << 16))
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 2**31
    assert _chi_square(torch.bincount(drawn >> shift & 15, minlength=16)) < _MOST


@pytest.mark.parametrize(
    ("seed", "purpose", "epoch", "start"),
    [(0, "cutout", 0, 0), (1, "flip", 0, 0), (0, "flip", 1, 0), (0, "flip", 0, 1)],
    ids=["purpose", "seed", "epoch", "neighbour"],
)
def test_random_bits_of_two_places_are_independent(seed: int, purpose: str, epoch: int, start: int) -> None:
    one = bits(0, "flip", 0, torch.arange(1 << 16)) & 3
    other = bits(seed, purpose, epoch, torch.arange(start, start + (1 << 16))) & 3
    assert _chi_square(torch.bincount(4 * one + other, minlength=16)) < _MOST


def test_a_step_has_its_own_dropout_on_each_rank() -> None:
    def drawn(seed: int, step: int, rank: int) -> list[float]:
        seeds.seed_step(seed, step, rank, torch.device("cpu"))
        return torch.rand(4).tolist()

    first = drawn(0, 5, 1)
    others = [drawn(0, 5, 0), drawn(0, 6, 1), drawn(1, 5, 1)]
    assert drawn(0, 5, 1) == first
    assert first not in others
