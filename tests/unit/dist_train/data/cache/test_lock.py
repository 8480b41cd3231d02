"""The lock of a data set."""

import errno
import fcntl
import logging
import os
import threading
from pathlib import Path

import pytest

from dist_train.data.cache import lock as lock_module
from dist_train.data.cache.location import CacheError
from dist_train.data.cache.lock import lock
from dist_train.errors import DataError
from tests.unit.dist_train.data.files import Settings, opened


def test_a_process_that_waits_says_for_whom(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock_module, "PATIENCE", 0.05)
    caplog.set_level(logging.INFO, "dist_train.data")
    config = settings("digits")
    Path(config.cache).mkdir()
    with (Path(config.cache) / "digits.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("process 12 on \x1b[2Jhost")
        other.flush()
        timer = threading.Timer(0.3, lambda: fcntl.flock(other, fcntl.LOCK_UN))
        timer.start()
        opened(config)
        timer.join()
    assert "waiting for process 12 on \\x1b[2Jhost, which downloads or decodes digits" in caplog.text


def test_a_wait_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "PATIENCE", 0.05)
    monkeypatch.setattr(lock_module, "LIMIT", 0.1)
    with lock(tmp_path, "mnist"), pytest.raises(DataError) as caught, lock(tmp_path, "mnist"):
        pass
    assert f"data.cache: {tmp_path}/mnist.lock has been locked by process " in str(caught.value)


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes would decode into the same files."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CacheError, match="No locks available"), lock(tmp_path, "mnist"):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mnist.lock").symlink_to(tmp_path / "bait")
    with pytest.raises(CacheError, match="cannot write under"), lock(tmp_path, "mnist"):
        pass
    assert not (tmp_path / "bait").exists()


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    """Of this data set only: another process may be writing that of another."""
    entry = tmp_path / "mnist-train-0123"
    files = [
        entry / ".checked.json.new",
        tmp_path / ".mnist.digests.json.new",
        tmp_path / ".mnist-x.statistics.json.new",
    ]
    folders = [tmp_path / ".mnist-train-0123.new", tmp_path / ".mnist-test-0123.old"]
    stays = [entry / "meta.json", tmp_path / ".mnist2-train-0123.new", tmp_path / "mnist.digests.json"]
    for path in (*files, *(folder / "images.u8" for folder in folders), *stays):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    with lock(tmp_path, "mnist"):
        pass
    assert [path for path in (*files, *folders) if path.exists()] == []
    assert [path for path in stays if not path.exists()] == []
