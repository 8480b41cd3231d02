"""A lock of each data set: one process of the machine at a time downloads, reads or decodes it."""

import contextlib
import errno
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_train.data.cache.location import make_directories, report_write_errors
from dist_train.errors import DataError
from dist_train.system.escape import escape
from dist_train.system.lock_file import LockFile
from dist_train.system.read_file import read_bytes

PATIENCE = 5.0
"""Seconds after which a process logs for whom it waits."""
LIMIT = 12 * 3600.0
"""Seconds after which it waits no longer: longer than a download or decoding takes."""

_log = logging.getLogger("dist_train.data")


@contextmanager
def lock(cache: Path, name: str) -> Iterator[None]:
    """Hold the lock of the data set `name`, and remove what killed processes have left half written.

    Raises:
        CacheError: the cache cannot be written, or its file system has no locks.
        DataError: another process has held the lock for `LIMIT` seconds.
    """
    file = LockFile(cache / f"{name}.lock", mode=0o600)
    with report_write_errors(cache):
        make_directories(cache)
        _acquire(file, name)
    try:
        with report_write_errors(cache):
            if file.is_held() is None:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
        _remove_leftovers(cache, name)
        yield
    finally:
        file.release()


def _acquire(file: LockFile, name: str) -> None:
    """Wait for the lock; log for whom after some seconds."""
    if file.acquire(PATIENCE):
        return
    holder = escape(read_bytes(file.path).decode(errors="replace"), 200) or "another process"
    _log.info("waiting for %s, which downloads or decodes %s", holder, name)
    if not file.acquire(LIMIT):
        raise DataError(
            f"data.cache: {escape(file.path)} has been locked by {holder} for {LIMIT / 3600:.0f} hours; end that "
            "process, or set another data.cache"
        )


def _remove_leftovers(cache: Path, name: str) -> None:
    """Remove temporary files and folders of this data set; whoever writes them holds the lock."""
    for pattern in (f".{name}-*", f".{name}.*", f"{name}-*/.*.new"):
        for path in cache.glob(pattern):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
