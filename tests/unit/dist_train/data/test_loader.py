"""Worker processes: their threads, their signals and their end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dist_train.data import TrainBatches
from dist_train.data import loader as reader
from dist_train.distributed.world import World
from tests.unit.dist_train.data.files import SEED, Settings, opened, write_images

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


SCRIPT = """
import sys, time
from dist_train.settings.schema import StoredData
from dist_train.data import TrainBatches, open_dataset
from dist_train.distributed.world import World
root, cache, end = sys.argv[1:]
config = StoredData(name="image_folder", root=root, cache=cache, loader="workers", workers=2, global_batch=2)
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
        reader._enter_worker(os.getpid(), 0)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
