"""The order of an epoch: a bijection, the same for ever, and like a random permutation in every test."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from dist_train.data.orders.permutation import permute


def order(length: int, seed: int = 0, epoch: int = 0) -> Tensor:
    return permute(torch.arange(length), length, seed, epoch)


def chi_square(counts: Tensor) -> float:
    expected = counts.sum() / counts.numel()
    return float(((counts - expected) ** 2 / expected).sum())


def likely(freedom: int) -> float:
    """The 0.999 quantile of chi-square, by Wilson and Hilferty's approximation."""
    return freedom * (1 - 2 / (9 * freedom) + 3.0902 * math.sqrt(2 / (9 * freedom))) ** 3


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's, in standard deviations of what independent permutations have."""
    return float(torch.corrcoef(torch.stack([one, other]).double())[0, 1]) * math.sqrt(len(one))


def test_golden_values_hold() -> None:
    """A change here changes the batches of every run that is repeated or resumed."""
    assert order(10).tolist() == [4, 7, 1, 0, 6, 9, 5, 2, 3, 8]
    assert order(10, seed=1, epoch=2).tolist() == [9, 6, 5, 4, 7, 8, 0, 1, 3, 2]
    assert permute(torch.tensor([0, 1, 59_999]), 60_000, 42, 7).tolist() == [10241, 28916, 38893]
    assert permute(torch.tensor([0, 9_999_999]), 10_000_000, 2**62, 1000).tolist() == [4874925, 9370160]
    assert permute(torch.tensor([2**40 - 1]), 2**40, 0, 0).tolist() == [24301156364]


def test_is_a_bijection_of_every_length() -> None:
    for length in range(1, 301):
        for epoch in range(3):
            assert order(length, length, epoch).sort().values.tolist() == list(range(length))


@pytest.mark.parametrize("length", [999, 1024, 1025, 50_000, 60_000, 65_536, 1_000_003])
def test_is_a_bijection_of_long_ones(length: int) -> None:
    assert torch.equal(order(length).sort().values, torch.arange(length))


def test_positions_may_be_asked_for_in_any_order_and_number() -> None:
    whole = order(1000)
    positions = torch.randint(1000, (300,), generator=torch.Generator().manual_seed(0))
    before = positions.clone()
    assert torch.equal(permute(positions, 1000, 0, 0), whole[positions])
    assert torch.equal(positions, before)
    assert torch.equal(torch.cat([permute(part, 1000, 0, 0) for part in torch.split(torch.arange(1000), 7)]), whole)
    assert permute(torch.arange(0), 1000, 0, 0).tolist() == []


@pytest.mark.parametrize(("position", "length"), [(5, 5), (-1, 5), (0, 0), (2**40, 10)])
def test_a_position_outside_the_range_is_an_error(position: int, length: int) -> None:
    with pytest.raises(IndexError, match=rf"from {position} to {position} are not in range\({length}\)"):
        permute(torch.tensor([position]), length, 0, 0)


def test_torch_s_own_random_state_stays() -> None:
    before = torch.get_rng_state()
    order(100, seed=99)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_all_permutations_are_equally_frequent(length: int) -> None:
    """Over the epochs of a seed, and over seeds."""
    every = list(itertools.permutations(range(length)))
    for keys in ([(0, epoch) for epoch in range(2400)], [(seed, 0) for seed in range(2400)]):
        counts = Counter(tuple(order(length, *key).tolist()) for key in keys)
        assert chi_square(torch.tensor([counts[each] for each in every])) < likely(len(every) - 1)


@pytest.mark.parametrize("length", [9, 16, 20])
def test_samples_and_pairs_are_equally_frequent_at_all_positions(length: int) -> None:
    orders = torch.stack([order(length, 5, epoch) for epoch in range(2000)])
    counts = torch.stack([torch.bincount(column, minlength=length) for column in orders.T])
    # Each row and each column of the counts has a fixed sum.
    assert chi_square(counts) * (length - 1) / length < likely((length - 1) ** 2)
    for distance in (1, 2, 4):
        pairs = orders[:, :-distance] * length + orders[:, distance:]
        off_diagonal = ~torch.eye(length, dtype=torch.bool).flatten()
        counts = torch.bincount(pairs.flatten(), minlength=length**2)[off_diagonal]
        assert chi_square(counts) < likely(len(counts) - 1)


@pytest.mark.parametrize("length", [9, 16, 25, 64])
def test_half_of_the_permutations_are_even(length: int) -> None:
    """An odd base or halves of bits would give even ones only."""

    def parity(permutation: list[int]) -> int:
        inversions = sum(one > other for one, other in itertools.combinations(permutation, 2))
        return inversions % 2

    odd = sum(parity(order(length, 7, epoch).tolist()) for epoch in range(400))
    assert abs(odd - 200) < 3.3 * math.sqrt(400) / 2


@pytest.mark.parametrize("length", [1000, 60_000, 1_000_003])
def test_a_long_order_looks_random(length: int) -> None:
    """No correlation with the position or the sample before, between epochs, or between seeds; no regular steps."""
    positions, one = torch.arange(length), order(length, 3, 4)
    others = [
        positions,
        one.roll(1),
        one.roll(2),
        order(length, 3, 5),
        order(length, 4, 4),
        order(length + 1, 3, 4)[1:],
    ]
    assert all(abs(correlation(one, other)) < 3.5 for other in others)
    displacement = (one - positions).abs().double().mean() / length
    assert abs(float(displacement) - 1 / 3) < 3.5 * math.sqrt(2 / 45 / length)
    assert int((one == positions).sum()) < 8  # fixed points: 1 on average
    steps = torch.bincount((one.diff() % length) * 50 // length, minlength=50)
    assert chi_square(steps) < likely(49)


def test_orders_of_neighbouring_epochs_and_seeds_agree_at_one_position_on_average() -> None:
    orders = torch.stack([order(500, seed, epoch) for seed in range(10) for epoch in range(10)])
    pairs = itertools.combinations(orders, 2)
    agreeing = torch.tensor([int((one == other).sum()) for one, other in pairs])
    assert abs(float(agreeing.double().mean()) - 1) < 3.5 / math.sqrt(len(agreeing))


def test_a_batch_of_small_positions_is_spread_over_the_whole() -> None:
    """The first batch of each epoch holds samples of all sixteenths of the files alike."""
    firsts = torch.cat([permute(torch.arange(64), 10_000_000, 0, epoch) for epoch in range(200)])
    assert chi_square(torch.bincount(firsts * 16 // 10_000_000, minlength=16)) < likely(15)
