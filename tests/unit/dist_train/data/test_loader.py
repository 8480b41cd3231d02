"""Worker processes: waiting for them, their threads, their signals and their end."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dist_train.data import TrainBatches
from dist_train.data import loader as loader_module
from dist_train.data.loader import POLL_SECONDS, Request, SampleLoader
from dist_train.data.samples import LabelledImages, Samples, Shape
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.system.stop_signals import Stop, StopRequested
from tests.unit.dist_train.data.files import SEED, Settings, images_of, opened, write_images

# Python 3.12 and later warn at each fork of a process with threads, which torch always has.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize("taken", [0, 1, 6])
def test_close_leaves_no_process_and_no_thread(settings: Settings, root: Path, taken: int) -> None:
    write_images(root)
    config = settings("image_folder", global_batch=3, loader="workers", workers=2)
    dataset = opened(config)
    threads = set(threading.enumerate())
    batches = TrainBatches(dataset, config, SEED, World(), 0, 6)
    for _ in range(taken):
        next(batches)
    batches.close()
    assert not multiprocessing.active_children()
    assert set(threading.enumerate()) == threads
    assert list(batches) == []
    batches.close()


def test_workers_use_one_thread_and_outlive_a_signal_to_the_group(settings: Settings, root: Path) -> None:
    write_images(root)
    config = settings("image_folder", global_batch=3, loader="workers", workers=1)
    with TrainBatches(opened(config), config, SEED, World(), 0, 6) as batches:
        next(batches)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            os.kill(worker.pid, number)
        assert len(list(batches)) == 5


@dataclass(frozen=True)
class GatedImages:
    """Images whose number 2 is read only once a file exists."""

    gate: Path
    shape: Shape = (1, 2, 2)

    def __len__(self) -> int:
        return 4

    def take(self, indices: Tensor) -> Tensor:
        while 2 in indices.tolist() and not self.gate.exists():
            time.sleep(0.01)
        return indices.to(torch.uint8)[:, None, None, None].expand(-1, *self.shape)

    def pieces(self) -> Iterator[Tensor]:
        return iter(torch.split(self.take(torch.arange(4)), 1))


@contextmanager
def gated(gate: Path, stop: Stop, stop_after_seconds: float = 0.0, *, opens: bool = True) -> Iterator[Iterator[int]]:
    """The first pixel of each of four images, which a worker reads one at a time."""
    samples = Samples("train", None, LabelledImages(GatedImages(gate), torch.zeros(4, dtype=torch.int64)))
    requests = [Request(positions, 0, [1]) for positions in torch.split(torch.arange(4), 1)]
    with SampleLoader(samples, requests, 1, pin=False, stop=stop, stop_after_seconds=stop_after_seconds) as loader:
        yield (int(images[0, 0, 0, 0]) for ((images, _),) in loader)
        if opens:
            gate.touch()
    assert not multiprocessing.active_children()


def open_soon(gate: Path) -> threading.Timer:
    timer = threading.Timer(4 * POLL_SECONDS, gate.touch)
    timer.start()
    return timer


def requested(reason: str = "SIGTERM") -> Stop:
    stop = Stop()
    stop.reason = reason
    return stop


def test_slow_workers_are_waited_for(tmp_path: Path) -> None:
    """Over several polls; torch ends each with its error of a timeout."""
    timer, start = open_soon(tmp_path / "gate"), time.monotonic()
    with gated(tmp_path / "gate", Stop()) as pixels:
        assert list(pixels) == [0, 1, 2, 3]
    assert time.monotonic() - start > 3 * POLL_SECONDS
    timer.join()


def test_a_wait_ends_when_a_stop_is_requested(tmp_path: Path) -> None:
    stop = Stop()
    with gated(tmp_path / "gate", stop) as pixels:
        assert [next(pixels), next(pixels)] == [0, 1]
        threading.Timer(2 * POLL_SECONDS, setattr, (stop, "reason", "SIGUSR1")).start()
        with pytest.raises(StopRequested, match="SIGUSR1"):
            next(pixels)


def test_data_that_comes_within_the_grace_time_is_taken(tmp_path: Path) -> None:
    timer = open_soon(tmp_path / "gate")
    with gated(tmp_path / "gate", requested(), stop_after_seconds=60) as pixels:
        assert list(pixels) == [0, 1, 2, 3]
    timer.join()


def test_a_wait_ends_after_the_grace_time(tmp_path: Path) -> None:
    with gated(tmp_path / "gate", requested(), stop_after_seconds=4 * POLL_SECONDS) as pixels:
        assert [next(pixels), next(pixels)] == [0, 1]
        start = time.monotonic()
        with pytest.raises(StopRequested):
            next(pixels)
        assert time.monotonic() - start >= 4 * POLL_SECONDS


def test_a_worker_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # torch's wait for its end
    with gated(tmp_path / "gate", Stop(), opens=False) as pixels:
        assert next(pixels) == 0


def test_a_worker_that_is_killed_is_an_error(tmp_path: Path) -> None:
    with gated(tmp_path / "gate", Stop()) as pixels:
        assert [next(pixels), next(pixels)] == [0, 1]
        (worker,) = multiprocessing.active_children()
        worker.kill()
        with pytest.raises(RuntimeError, match=r"worker .*(exited unexpectedly|is killed by signal)"):
            next(pixels)


SCRIPT = """
import sys, time
from dist_train.settings.schema import ImageFolderData
from dist_train.data import TrainBatches, open_dataset
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
root, cache, end = sys.argv[1:]
config = ImageFolderData(name="image_folder", root=root, cache=cache, loader="workers", workers=2, global_batch=2)
batches = TrainBatches(open_dataset(config, 0, World()), config, 0, World(), 0, 9000)
next(batches)
print(*[worker.pid for worker in __import__("multiprocessing").active_children()], flush=True)
time.sleep(60) if end == "wait" else None
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["wait", "exit"])
def test_workers_end_with_their_rank(tmp_path: Path, root: Path, end: str) -> None:
    """Killed, or ended by an exit that closes nothing."""
    write_images(root)
    command = [sys.executable, "-c", SCRIPT, str(root), str(tmp_path / "cache"), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        workers = [int(pid) for pid in rank.stdout.readline().split()]
        assert len(workers) == 2
        if end == "wait":
            rank.kill()
        assert rank.wait(timeout=20) == (-signal.SIGKILL if end == "wait" else 0)
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_worker_that_starts_after_its_rank_was_killed_ends() -> None:
    with pytest.raises(SystemExit):
        loader_module._enter_worker(os.getpid(), 0)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_shared_memory_that_is_too_small_is_refused_at_once(
    settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(root)
    config = settings("image_folder", global_batch=3, loader="workers", workers=2)
    dataset = opened(config)
    free = [10**9]
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free[0]))
    TrainBatches(dataset, config, SEED, World(), 0, 6).close()
    free[0] = (
        4 * 3 * math.prod(images_of(dataset.train).shape)
    )  # less than two batches of each worker and the one in use
    with pytest.raises(ConfigError, match=r"data\.workers=2: .*/dev/shm has .* MB free.*--shm-size"):
        TrainBatches(dataset, config, SEED, World(), 0, 6)
    assert not multiprocessing.active_children()
