"""The slices of global batches that each rank takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from dist_train.data.orders import order as order_module
from dist_train.data.orders.permutation import permute
from dist_train.data.sampler import BatchSlice, GlobalBatchSampler, cut_size
from dist_train.settings.schedule import steps_per_epoch

lengths = st.integers(1, 300)
batches = st.integers(1, 400)
sizes = st.integers(1, 9)


def sampler(
    length: int,
    global_batch: int,
    size: int = 1,
    rank: int = 0,
    start: int = 0,
    stop: int | None = None,
    seed: int = 5,
    shards: int | None = None,
) -> GlobalBatchSampler:
    return GlobalBatchSampler(
        range(length),
        global_batch,
        num_replicas=size,
        rank=rank,
        seed=seed,
        start_step=start,
        stop_step=steps_per_epoch(length, global_batch) if stop is None else stop,
        shards=shards,
    )


def slices_of_all_ranks(length: int, global_batch: int, size: int, start: int, stop: int) -> list[list[BatchSlice]]:
    """The slices of each step, in the order of the ranks."""
    ranks = [list(sampler(length, global_batch, size, rank, start, stop).slices()) for rank in range(size)]
    return [list(step) for step in zip(*ranks, strict=True)]


def own_positions(part: BatchSlice) -> list[int]:
    """What a rank takes of one batch, without placeholders."""
    return part.positions[: sum(part.parts)].tolist()


def order(length: int, epoch: int, seed: int = 5) -> list[int]:
    permuted: list[int] = permute(torch.arange(length), length, seed, epoch).tolist()
    return permuted


@settings(deadline=None)
@given(lengths, batches, sizes, st.integers(0, 3), st.data())
def test_slices_are_the_permutation(
    length: int, global_batch: int, size: int, epochs: int, data: st.DataObject
) -> None:
    """From any step on, at any world size: the union over ranks, in global order, is the rest of the permutations."""
    steps = steps_per_epoch(length, global_batch)
    start = data.draw(st.integers(0, steps * (epochs + 1) - 1))
    stop = steps * (epochs + 2)
    found: dict[int, list[int]] = {}
    for slices in slices_of_all_ranks(length, global_batch, size, start, stop):
        found.setdefault(slices[0].epoch, []).extend(i for part in slices for i in own_positions(part))
    first, within = divmod(start, steps)
    expected = {epoch: order(length, epoch) for epoch in range(first, epochs + 2)}
    expected[first] = expected[first][within * global_batch :]
    assert found == expected


@settings(deadline=None)
@given(lengths, batches, sizes)
def test_slices_differ_by_at_most_one(length: int, global_batch: int, size: int) -> None:
    for slices in slices_of_all_ranks(length, global_batch, size, 0, steps_per_epoch(length, global_batch)):
        counts = [len(own_positions(part)) for part in slices]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] - counts[-1] <= 1
        assert counts[0] >= 1
        assert {part.count for part in slices} == {sum(counts)}
        whole = [i for part in slices for i in own_positions(part)]
        assert {tuple(part.global_positions.tolist()) for part in slices} == {tuple(whole)}
        assert all(own_positions(part) or part.positions.tolist() == (whole * 2)[:2] for part in slices)


@settings(deadline=None)
@given(
    lengths, batches, st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 8), (2, 8), (4, 8)]), st.integers(1, 40), st.data()
)
def test_slices_of_several_batches_are_those_of_each(
    length: int, global_batch: int, cut: tuple[int, int], together: int, data: st.DataObject
) -> None:
    """Also across the ends of epochs, from any step to any step, and with empty shards."""
    size, shards = cut
    start = data.draw(st.integers(0, 3 * steps_per_epoch(length, global_batch)))
    stop = start + data.draw(st.integers(0, 50))
    place = {"size": size, "rank": size - 1, "start": start, "stop": stop, "shards": shards}
    slices = list(sampler(length, global_batch, **place).slices(together))
    assert all(1 <= part.steps <= together for part in slices)
    apart = [one for part in slices for one in cut_by_step(part)]
    assert apart == [one for part in sampler(length, global_batch, **place).slices() for one in cut_by_step(part)]


def cut_by_step(part: BatchSlice) -> list[object]:
    read, whole = (torch.split(found, len(found) // part.steps) for found in (part.positions, part.global_positions))
    assert all(len(positions) == sum(part.sizes) for positions in read)
    steps = range(part.step, part.step + part.steps)
    return [
        (step, part.epoch, part.count, part.parts, positions.tolist(), all_positions.tolist())
        for step, positions, all_positions in zip(steps, read, whole, strict=True)
    ]


@settings(deadline=None)
@given(lengths, batches, st.integers(0, 20))
def test_a_stream_may_begin_anywhere(length: int, global_batch: int, start: int) -> None:
    whole = list(sampler(length, global_batch, size=2, rank=1, stop=30))
    assert list(sampler(length, global_batch, size=2, rank=1, start=start, stop=30)) == whole[start:]
    steps = [part.step for part in sampler(length, global_batch, start=start, stop=30).slices()]
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


def test_a_slice_without_samples_reads_placeholders() -> None:
    """The first two samples of the global batch, or its only one twice."""
    (two,) = sampler(2, 2, size=3, rank=2).slices()
    assert (two.parts, two.sizes, two.positions.tolist()) == ([0], [2], two.global_positions.tolist())
    (one,) = sampler(1, 1, size=2, rank=1).slices()
    assert (one.parts, one.sizes, one.positions.tolist()) == ([0], [2], [0, 0])


def test_small_batches_are_permuted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call costs as much as some hundred positions; no call has more positions than a block."""
    asked = []

    def count(positions: Tensor, *arguments: int) -> Tensor:
        asked.append(len(positions))
        return permute(positions, *arguments)

    monkeypatch.setattr(order_module, "permute", count)
    assert sum(part.steps for part in sampler(10_000, 4).slices(together=100)) == 2500
    assert asked == [4000, 4000, 2000]


@pytest.mark.parametrize(("samples", "limit"), [(8, 3), (8, 8), (8, None), (7, 1), (2, 100), (9, 4)])
def test_passes_are_few_and_nearly_equal(samples: int, limit: int | None) -> None:
    sizes = cut_size(samples, limit)
    assert sum(sizes) == samples
    assert len(sizes) == -(-samples // (limit or samples))
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
