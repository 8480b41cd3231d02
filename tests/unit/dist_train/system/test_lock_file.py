"""A file that one process holds; what holds it, moves it or is no file at all."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_train.system import lock_file
from dist_train.system.lock_file import LockFile


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_file, "PATIENCE", 0.1)


def test_one_holds_it_until_it_is_released(tmp_path: Path) -> None:
    first, second = (LockFile(tmp_path / "lock") for _ in range(2))
    assert second.is_held() is False
    assert first.acquire()
    assert second.is_held() is True
    assert not second.acquire()
    assert not second.wait()
    first.write("a long text")
    first.write("text")
    assert first.path.read_text() == "text"
    first.release()
    assert second.wait()
    assert second.acquire()
    second.release()


def test_only_the_holder_writes(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock")
    with pytest.raises(ValueError, match="is not held"):
        lock.write("text")


@pytest.mark.parametrize("kind", ["directory", "pipe", "link to itself"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    make: dict[str, Callable[[], None]] = {
        "directory": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link to itself": lambda: path.symlink_to("lock"),
    }
    make[kind]()
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(OSError, match=r"lock|directory|symbolic"):
        LockFile(path).acquire()
    assert LockFile(path).is_held() is False
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
