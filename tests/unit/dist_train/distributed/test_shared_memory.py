"""Sums over ranks in shared memory: by threads of this process, and by real ranks."""

import errno
import gc
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import DistNetworkError

from dist_train.diagnostics.failure import classify
from dist_train.distributed import shared_memory
from dist_train.distributed.shared_memory import SharedMemory, open_shared_memory
from dist_train.distributed.world import World
from dist_train.settings.schema import Distributed
from dist_train.system.process import read_process_stat
from tests.conftest import Ranks

CHUNK = shared_memory._CHUNK_BYTES // 4  # numbers of float32


@pytest.fixture
def ranks() -> Callable[..., list[SharedMemory]]:
    """Ranks in this process, each with its own mapping of the memory."""

    def open_ranks(size: int, timeout: float = 30.0) -> list[SharedMemory]:
        descriptor = shared_memory._create_memory(size)
        try:
            memories = [
                shared_memory._map_memory([shared_memory._current_process()] * size, descriptor) for _ in range(size)
            ]
        finally:
            os.close(descriptor)
        return [
            SharedMemory(memory, [shared_memory._current_process()] * size, rank, timeout)
            for rank, memory in enumerate(memories)
            if memory is not None
        ]

    return open_ranks


def run_together(ranks: list[SharedMemory], act: Callable[[int, SharedMemory], Any]) -> list[Any]:
    """What `act` returns on each rank."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(act, range(len(ranks)), ranks))


def tree(parts: list[Tensor]) -> Tensor:
    """The sum of a fixed binary tree: neighbours first."""
    while len(parts) > 1:
        pairs = [parts[number : number + 2] for number in range(0, len(parts), 2)]
        parts = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


def numbers(size: int, count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(count, generator=generator, dtype=torch.float64).to(dtype) for _ in range(size)]


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("count", [1, 5, 1000, CHUNK, 2 * CHUNK + 3])
def test_every_rank_gets_the_sum_of_a_fixed_tree(
    ranks: Callable[..., list[SharedMemory]], size: int, count: int
) -> None:
    own = numbers(size, count)
    expected = tree([part * (1 / size) for part in own])
    found = [part.clone() for part in own]
    run_together(ranks(size), lambda rank, memory: memory.sum_(found[rank], 1 / size))
    for rank in range(size):
        assert torch.equal(found[rank], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_sums_of_other_floating_point_types(ranks: Callable[..., list[SharedMemory]], dtype: torch.dtype) -> None:
    own = [(part * 100).to(dtype) for part in numbers(3, 3000)]
    found = [part.clone() for part in own]
    run_together(ranks(3), lambda rank, memory: memory.sum_(found[rank]))
    for rank in range(3):
        assert torch.equal(found[rank], tree(own))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_no_rank_overwrites_what_another_still_reads(ranks: Callable[..., list[SharedMemory]], size: int) -> None:
    """The ranks are late in turn, and the sums change their lengths."""
    turns = 150

    def act(rank: int, memory: SharedMemory) -> list[bool]:
        found = []
        for turn in range(turns):
            if turn % (size + 1) == rank:
                time.sleep(0.001)
            flat = torch.full((1 + 977 * (turn % 5),), float(turn + rank))
            memory.sum_(flat)
            found.append(bool((flat == size * turn + size * (size - 1) / 2).all()))
        return found

    for found in run_together(ranks(size), act):
        assert found == [True] * turns


def test_the_wait_for_a_rank_times_out(
    ranks: Callable[..., list[SharedMemory]],
) -> None:
    with pytest.raises(DistNetworkError, match=r"timed out waiting 0\.1 s for rank 1\(2\)") as raised:
        ranks(2, timeout=0.1)[0].sum_(torch.zeros(3))
    assert classify(raised.value, "backward") == "victim"


@pytest.mark.parametrize("size", [2, 3])
def test_the_wait_for_a_rank_ends_when_its_process_has_exited(
    ranks: Callable[..., list[SharedMemory]], size: int
) -> None:
    memory = ranks(size)[0]
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    stat = read_process_stat(other.pid)
    assert stat is not None
    memory._processes[size - 1] = shared_memory._Process(other.pid, stat[1])
    for alive in range(1, size - 1):  # the other ranks are there, and wait as well
        memory._post(memory._incoming[alive])
    ending = threading.Timer(0.2, other.communicate, ("\n",))
    ending.start()
    with pytest.raises(DistNetworkError, match=rf"rank {size - 1}\({size}\), pid {other.pid}, has exited") as raised:
        memory.sum_(torch.zeros(3))
    ending.join()
    assert classify(raised.value, "backward") == "victim"


class InterruptedByTestError(Exception):
    """What a signal handler may raise."""


def test_signal_handlers_run_while_a_rank_waits(ranks: Callable[..., list[SharedMemory]]) -> None:
    """A handler that returns changes nothing; one that raises ends the wait."""
    here, late = ranks(2)
    noted: list[int] = []

    def heard(number: int, _: object) -> None:
        noted.append(number)
        if len(noted) == 2:
            raise InterruptedByTestError

    def come() -> None:
        while not noted:
            time.sleep(0.01)
        late.sum_(torch.ones(3))

    before = signal.signal(signal.SIGALRM, heard)
    other = threading.Thread(target=come)
    other.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        flat = torch.ones(3)
        here.sum_(flat)
        assert flat.tolist() == [2, 2, 2]
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedByTestError):
            here.sum_(flat)
    finally:
        signal.signal(signal.SIGALRM, before)
        other.join()


def test_other_threads_run_while_a_rank_waits(ranks: Callable[..., list[SharedMemory]]) -> None:
    """The watchdog and the saving thread must not wait for the GIL."""
    memory = ranks(2, timeout=1.5)[0]
    turns: list[float] = []

    def work() -> None:
        while not done.wait(0.005):
            turns.append(time.monotonic())

    done = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(DistNetworkError):
        memory.sum_(torch.zeros(3))
    done.set()
    thread.join()
    assert len(turns) > 5  # about 300 on idle cores


# Opening the memory.


@pytest.mark.parametrize(
    ("setting", "world"),
    [
        ("auto", World()),
        ("off", World(size=2, local_size=2)),
        ("auto", World(size=4, local_size=2)),
        ("auto", World(size=2, local_size=2, device=torch.device("cuda"))),
    ],
)
def test_it_is_not_used_for_one_rank_several_machines_or_gpus(
    setting: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "_create_memory", lambda _: pytest.fail("memory was created"))
    assert open_shared_memory(Distributed(shared_memory=setting), world) is None


def test_no_memory_is_shared_with_a_rank_that_can_not_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    """The process of the second rank is not visible here, as in another container."""
    descriptors = open_descriptors()
    caplog.set_level("INFO")
    assert open_shared_memory(Distributed(), World(size=2, local_size=2, backend=None)) is None
    assert "the ranks can't share memory here; their gradients go through" in caplog.text
    assert "can't be seen from here" in caplog.text
    assert open_descriptors() == descriptors


@pytest.mark.parametrize("name", ["memfd_create", "posix_fallocate"])
def test_there_is_no_memory_without_space_or_support(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    caplog.set_level("INFO")
    descriptors = open_descriptors()
    monkeypatch.setattr(os, name, full)
    assert shared_memory._create_memory(2) == -1
    monkeypatch.delattr(os, "memfd_create")
    assert shared_memory._create_memory(2) == -1
    assert "No space left on device" in caplog.text
    assert "memfd_create" in caplog.text
    assert open_descriptors() == descriptors


@pytest.mark.parametrize("content", [b"", b"\1" * shared_memory._memory_size(2)])
def test_other_memory_than_the_first_rank_s_is_rejected(content: bytes) -> None:
    descriptor = os.memfd_create("other")
    try:
        os.write(descriptor, content)
        assert shared_memory._map_memory([shared_memory._current_process()] * 2, descriptor) is None
    finally:
        os.close(descriptor)
    assert (
        shared_memory._map_memory([shared_memory._current_process()] * 2, descriptor) is None
    )  # the descriptor is closed


def test_the_parts_of_the_memory_do_not_overlap() -> None:
    for size in (2, 3, 8, 64):
        offsets = [shared_memory._semaphore_offset(one, other, size) for one in range(size) for other in range(size)]
        assert len(set(offsets)) == size**2
        assert min(offsets) >= shared_memory._OWNER.size
        assert max(offsets) + 32 <= shared_memory._slots_offset(size)  # sizeof(sem_t)
        assert shared_memory._slots_offset(size) % mmap.PAGESIZE == 0


def open_descriptors() -> set[str]:
    gc.collect()  # what earlier tests have left is closed now and not in between
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a Path would open one more)


# Real ranks.


def sharing(on_ranks: Ranks, directory: Path, ranks: int, refusing: int = -1) -> list[dict[str, Any]]:
    """The result of each rank of `tests/programs/sharing.py`."""
    env = {"DIST_TRAIN_TEST_REFUSES": str(refusing), "OMP_NUM_THREADS": "1"}
    done = on_ranks(ranks, "-m", "tests.programs.sharing", str(directory), env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_real_ranks_get_the_same_bits_and_leave_no_memory(on_ranks: Ranks, tmp_path: Path, ranks: int) -> None:
    before = set(Path("/dev/shm").glob("*dist_train*"))  # noqa: S108
    found = sharing(on_ranks, tmp_path, ranks)
    for each in found:
        assert each["shares"]
        assert each["bits"] == found[0]["bits"]
        assert each["distance to gloo"] < 1e-5
        assert each["left"] == []
    if ranks == 2:
        assert [each["bits of gloo"] for each in found] == [found[0]["bits"]] * 2
    assert set(Path("/dev/shm").glob("*dist_train*")) == before  # noqa: S108


@pytest.mark.slow
def test_if_one_rank_can_not_map_the_memory_none_uses_it(on_ranks: Ranks, tmp_path: Path) -> None:
    found = sharing(on_ranks, tmp_path, 3, refusing=2)
    assert [each["shares"] for each in found] == [False] * 3
    assert [each["left"] for each in found] == [[]] * 3
