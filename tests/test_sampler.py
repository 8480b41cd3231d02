"""The order of samples and its cut into shares."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

from dist_train import seeds
from dist_train.data.sampler import GlobalBatchSampler, Share
from dist_train.plan import steps_per_epoch

lengths = st.integers(1, 300)
batches = st.integers(1, 400)
sizes = st.integers(1, 9)


def sampler(
    length: int, global_batch: int, size: int = 1, rank: int = 0, start: int = 0, stop: int | None = None, seed: int = 5
) -> GlobalBatchSampler:
    return GlobalBatchSampler(
        range(length),
        global_batch,
        num_replicas=size,
        rank=rank,
        seed=seed,
        start_step=start,
        stop_step=steps_per_epoch(length, global_batch) if stop is None else stop,
    )


def of_all_ranks(length: int, global_batch: int, size: int, start: int, stop: int) -> list[list[Share]]:
    """The shares of each step, in the order of the ranks."""
    ranks = [list(sampler(length, global_batch, size, rank, start, stop).shares()) for rank in range(size)]
    return [list(step) for step in zip(*ranks, strict=True)]


def order(length: int, epoch: int, seed: int = 5) -> list[int]:
    drawn: list[int] = torch.randperm(length, generator=seeds.generator(seed, "order", epoch)).tolist()
    return drawn


@settings(deadline=None)
@given(lengths, batches, sizes, st.integers(0, 3), st.data())
def test_shares_are_the_permutation(
    length: int, global_batch: int, size: int, epochs: int, data: st.DataObject
) -> None:
    """From any step on, at any world size: the union over ranks, in global order, is the rest of the permutations."""
    steps = steps_per_epoch(length, global_batch)
    start = data.draw(st.integers(0, steps * (epochs + 1) - 1))
    stop = steps * (epochs + 2)
    found: dict[int, list[int]] = {}
    for shares in of_all_ranks(length, global_batch, size, start, stop):
        found.setdefault(shares[0].epoch, []).extend(i for share in shares for i in share.positions.tolist())
    first, within = divmod(start, steps)
    expected = {epoch: order(length, epoch) for epoch in range(first, epochs + 2)}
    expected[first] = expected[first][within * global_batch :]
    assert found == expected


@settings(deadline=None)
@given(lengths, batches, sizes)
def test_shares_differ_by_at_most_one(length: int, global_batch: int, size: int) -> None:
    for shares in of_all_ranks(length, global_batch, size, 0, steps_per_epoch(length, global_batch)):
        counts = [len(share.positions) for share in shares]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] - counts[-1] <= 1
        assert counts[0] >= 1
        assert {share.count for share in shares} == {sum(counts)}
        whole = [i for share in shares for i in share.positions.tolist()]
        assert all(share.stand_in.tolist() == (whole * 2)[:2] for share in shares)


@settings(deadline=None)
@given(lengths, batches, st.integers(0, 20))
def test_a_stream_may_begin_anywhere(length: int, global_batch: int, start: int) -> None:
    whole = list(sampler(length, global_batch, size=2, rank=1, stop=30))
    assert list(sampler(length, global_batch, size=2, rank=1, start=start, stop=30)) == whole[start:]
    steps = [share.step for share in sampler(length, global_batch, start=start, stop=30).shares()]
    assert steps == list(range(start, 30))


def test_epochs_and_seeds_differ() -> None:
    two = list(sampler(50, 50, stop=2))
    assert two[0] != two[1]
    assert two[0] != next(iter(sampler(50, 50, seed=6)))


def test_is_a_batch_sampler() -> None:
    """A DataLoader of any data set takes it, and torch's own random state stays as it was."""
    chosen = sampler(10, 4)
    before = torch.get_rng_state()
    loader: DataLoader[int] = DataLoader(range(10), batch_sampler=chosen, generator=torch.Generator())  # type: ignore[arg-type]
    assert [batch.tolist() for batch in loader] == list(chosen)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(chosen, DistributedSampler)
    assert len(chosen) == 3
    assert steps_per_epoch(8, 4) == 2
