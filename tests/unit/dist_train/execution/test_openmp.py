"""Threads other than the training thread start no team of OpenMP threads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dist_train.checkpoint.saver import Saver
from dist_train.checkpoint.store import Store
from tests.unit.dist_train.checkpoint.test_serialization import TRAINING

TASKS = Path("/proc/self/task")
MANY = 1_000_000  # elements; torch processes some ten thousand in one thread


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let the training thread start its team of two before anything is counted."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.isfinite(torch.zeros(MANY))
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif(not TASKS.is_dir(), reason="no /proc")
def test_the_saver_has_one_thread(tmp_path: Path) -> None:
    before = len(list(TASKS.iterdir()))
    with Saver(Store(tmp_path), keep_last=1, asynchronous=True) as saver:
        saver.save(1, {"model.pt": {"weight": torch.zeros(MANY)}, "training.pt": TRAINING})
        saver.wait()
        assert len(list(TASKS.iterdir())) == before + 1
    assert torch.get_num_threads() == 2
