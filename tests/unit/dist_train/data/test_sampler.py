"""The order of samples and its cut into shares."""

import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from dist_train import seeds
from dist_train.data.order import LONG, LONGEST_BEGINNING, Orders, beginning
from dist_train.data.sampler import GlobalBatchSampler, Share
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


def of_all_ranks(length: int, global_batch: int, size: int, start: int, stop: int) -> list[list[Share]]:
    """The shares of each step, in the order of the ranks."""
    ranks = [list(sampler(length, global_batch, size, rank, start, stop).shares()) for rank in range(size)]
    return [list(step) for step in zip(*ranks, strict=True)]


def own(share: Share) -> list[int]:
    """What a rank takes of one batch, without what stands in for samples it does not have."""
    return share.positions[: sum(share.parts)].tolist()


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
        found.setdefault(shares[0].epoch, []).extend(i for share in shares for i in own(share))
    first, within = divmod(start, steps)
    expected = {epoch: order(length, epoch) for epoch in range(first, epochs + 2)}
    expected[first] = expected[first][within * global_batch :]
    assert found == expected


@settings(deadline=None)
@given(lengths, batches, sizes)
def test_shares_differ_by_at_most_one(length: int, global_batch: int, size: int) -> None:
    for shares in of_all_ranks(length, global_batch, size, 0, steps_per_epoch(length, global_batch)):
        counts = [len(own(share)) for share in shares]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] - counts[-1] <= 1
        assert counts[0] >= 1
        assert {share.count for share in shares} == {sum(counts)}
        whole = [i for share in shares for i in own(share)]
        assert {tuple(share.whole.tolist()) for share in shares} == {tuple(whole)}
        assert all(own(share) or share.positions.tolist() == (whole * 2)[:2] for share in shares)


@settings(deadline=None)
@given(
    lengths, batches, st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 8), (2, 8), (4, 8)]), st.integers(1, 40), st.data()
)
def test_shares_of_several_batches_are_those_of_each(
    length: int, global_batch: int, cut: tuple[int, int], together: int, data: st.DataObject
) -> None:
    """Also across the ends of epochs, from any step to any step, and with shards that have no sample."""
    size, shards = cut
    start = data.draw(st.integers(0, 3 * steps_per_epoch(length, global_batch)))
    stop = start + data.draw(st.integers(0, 50))
    place = {"size": size, "rank": size - 1, "start": start, "stop": stop, "shards": shards}
    shares = list(sampler(length, global_batch, **place).shares(together))
    assert all(1 <= share.steps <= together for share in shares)
    apart = [one for share in shares for one in of_each_step(share)]
    assert apart == [one for share in sampler(length, global_batch, **place).shares() for one in of_each_step(share)]


def of_each_step(share: Share) -> list[object]:
    read, whole = (torch.split(found, len(found) // share.steps) for found in (share.positions, share.whole))
    assert all(len(positions) == sum(share.sizes) for positions in read)
    steps = range(share.step, share.step + share.steps)
    return [
        (step, share.epoch, share.count, share.parts, positions.tolist(), all_positions.tolist())
        for step, positions, all_positions in zip(steps, read, whole, strict=True)
    ]


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


def test_the_next_order_is_drawn_by_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last epoch expects none, and the thread has ended with `close`."""
    threads = []
    drawn = Orders._drawn

    def noted(orders: Orders, epoch: int) -> Tensor:
        threads.append((epoch, threading.current_thread().name))
        return drawn(orders, epoch)

    monkeypatch.setattr(Orders, "_drawn", noted)
    chosen = sampler(10, 4, stop=9)
    list(chosen)
    chosen.close()
    assert sorted(threads) == [(0, "MainThread"), (1, "order"), (2, "order")]
    assert "order" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("length", "count"), [(2, 1), (100, 99), (LONG, 1), (LONG, 1000), (LONG + 1, LONGEST_BEGINNING)]
)
def test_an_order_has_its_beginning(length: int, count: int, dtype: torch.dtype) -> None:
    one, other = (torch.Generator().manual_seed(length) for _ in range(2))
    whole = torch.randperm(length, generator=one, dtype=dtype)
    found = beginning(length, other, count, dtype)
    assert torch.equal(found, whole[:count])
    assert found.dtype == dtype


class Held:
    """Threads that draw orders wait for `let_go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.epochs: list[int] = []
        self.begins, self.let_go = threading.Event(), threading.Event()
        drawn = Orders._drawn

        def held(orders: Orders, epoch: int) -> Tensor:
            self.epochs.append(epoch)
            self.begins.set()
            if threading.current_thread() is not threading.main_thread():
                assert self.let_go.wait(60)
            return drawn(orders, epoch)

        monkeypatch.setattr(Orders, "_drawn", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    found = Held(monkeypatch)
    yield found
    found.let_go.set()


QUARTER = LONGEST_BEGINNING // 4


@pytest.mark.parametrize("start", [0, 1])
def test_the_first_batches_do_not_wait_for_the_order(held: Held, start: int) -> None:
    """While the first is drawn no other is, and what comes after the beginning waits."""
    chosen = sampler(LONG, QUARTER, start=start, stop=200)
    chosen.expect_first()
    steps = iter(chosen)
    first = [next(steps) for _ in range(start, 4)]
    assert held.begins.wait(60)
    assert held.epochs == [0]
    threading.Timer(0.1, held.let_go.set).start()
    fifth = next(steps)
    chosen.close()
    assert held.epochs == [0, 1]
    assert [*first, fifth] == list(sampler(LONG, QUARTER, start=start, stop=5))


def test_ranks_that_have_the_order_and_ranks_that_draw_it_agree(held: Held) -> None:
    begins, has_all = (sampler(LONG, QUARTER, size=2, rank=rank, stop=4) for rank in range(2))
    begins.expect_first()
    parts = [[*first, *second] for first, second in zip(begins, has_all, strict=True)]
    assert parts == list(sampler(LONG, QUARTER, stop=4))
    held.let_go.set()
    begins.close()


def test_a_torch_that_shuffles_otherwise_is_waited_for(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_train.data.order._is_as_torch_draws", lambda: False)
    orders = Orders(LONG, 5)
    orders.expect(0)
    threading.Timer(0.1, held.let_go.set).start()
    assert len(orders.of(0, 1)) == LONG


def test_a_beginning_that_is_not_the_orders_is_an_error(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_train.data.order.beginning", lambda *asked: torch.ones(asked[2], dtype=asked[3]))
    monkeypatch.setattr("dist_train.data.order._is_as_torch_draws", lambda: True)
    orders = Orders(LONG, 5)
    orders.expect(0)
    assert orders.of(0, 2).tolist() == [1, 1]
    held.let_go.set()
    with pytest.raises(RuntimeError, match="draws an order otherwise"):
        orders.of(0, LONG)
    orders.close()


def test_an_order_is_let_go_after_its_epoch() -> None:
    orders = Orders(1000, 5)
    first = weakref.ref(orders.of(0, 1000))
    orders.expect(1)
    assert orders.of(1, 1000).tolist() == order(1000, 1)
    orders.close()
    assert first() is None


def test_what_fails_on_the_thread_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Orders, epoch: int) -> Tensor:
        if epoch == 0:
            return torch.arange(10)
        raise MemoryError("no memory for an order")

    monkeypatch.setattr(Orders, "_drawn", fail)
    chosen = iter(sampler(10, 5, stop=4))
    assert [next(chosen), next(chosen)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    with pytest.raises(MemoryError, match="no memory for an order"):
        next(chosen)


def test_an_order_that_is_not_waited_for_is_still_there() -> None:
    """A signal may end the wait; what stands in for the batch asks for it again."""
    orders = Orders(1000, 5)
    for _ in range(2):
        orders.expect(3)
    assert orders.of(3, 1000).tolist() == order(1000, 3)
    assert orders.of(2, 1000).tolist() == order(1000, 2)
    orders.close()
    orders.close()
