"""A lock of each data set: one process of the machine at a time downloads, reads or decodes it."""

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_train.data.cache.location import make_directories, report_write_errors
from dist_train.errors import DataError
from dist_train.system.escape import escape

POLL_SECONDS = 0.05
PATIENCE = 5.0
"""Seconds after which a process logs for whom it waits."""
LIMIT = 12 * 3600.0
"""Seconds after which a process waits no longer: longer than a download or decoding takes."""

_log = logging.getLogger("dist_train.data")


@contextmanager
def lock(cache: Path, name: str) -> Iterator[None]:
    """Hold the lock of the data set `name`, and remove what killed processes have left half written.

    Raises:
        CacheError: the cache cannot be written, or its file system has no locks.
        DataError: another process has held the lock for `LIMIT` seconds.
    """
    path = cache / f"{name}.lock"
    with report_write_errors(cache):
        make_directories(cache)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with report_write_errors(cache):
            _wait(descriptor, path, name)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        _remove_leftovers(cache, name)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: Path, name: str) -> None:
    """Wait for the lock; log for whom after some seconds."""
    began, has_logged = time.monotonic(), False
    while not _try_lock(descriptor):
        waited = time.monotonic() - began
        holder = escape(os.pread(descriptor, 200, 0).decode(errors="replace")) or "another process"
        if waited >= LIMIT:
            raise DataError(
                f"data.cache: {escape(path)} has been locked by {holder} for {waited / 3600:.0f} hours; end that "
                "process, or set another data.cache"
            )
        if waited >= PATIENCE and not has_logged:
            _log.info("waiting for %s, which downloads or decodes %s", holder, name)
            has_logged = True
        time.sleep(POLL_SECONDS)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_leftovers(cache: Path, name: str) -> None:
    """Remove temporary files and folders of this data set; whoever writes them holds the lock."""
    for pattern in (f".{name}-*", f".{name}.*", f"{name}-*/.*.new"):
        for path in cache.glob(pattern):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
