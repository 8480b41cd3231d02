"""A file that one process holds; the system releases it when that process ends, even by SIGKILL."""

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 2.0  # seconds; a killed process's lock is released when the last worker that it has forked has ended too
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class LockFile:
    """A file with a lock and a text that says who holds it."""

    def __init__(self, path: Path, mode: int = 0o666) -> None:
        self.path = path
        self._mode = mode
        self._descriptor: int | None = None

    def acquire(self, patience: float = PATIENCE) -> bool:
        """Create and lock the file; returns whether that took less than `patience` seconds.

        True at once on a file system without locks, as some NFS is.

        Raises:
            OSError: the file can't be created, or is a link or not a regular file.
        """
        deadline = time.monotonic() + patience
        while (descriptor := self._open_locked()) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        self._descriptor = descriptor
        return True

    def _open_locked(self) -> int | None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW, self._mode)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(self.path))
            # The process that held it may have moved the directory, and this file with it.
            if _try_lock(descriptor) is not False and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def write(self, text: str) -> None:
        """Write who holds it; in place, because the lock belongs to the file, not to its name."""
        if self._descriptor is None:
            raise ValueError(f"{self.path}: is not held")
        content = text.encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))
        os.fsync(self._descriptor)

    def release(self) -> None:
        """Release the lock if this object holds it."""
        if self._descriptor is not None:
            _unlock(self._descriptor)
            self._descriptor = None

    def wait(self) -> bool:
        """Wait until no process holds the lock; returns whether that took less than PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        while self.is_held():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def is_held(self) -> bool | None:
        """Whether a process on this machine, this one included, holds the lock; None on a file system without locks."""
        if not os.path.isfile(self.path):  # noqa: PTH113 (no error where the directory can't be read)
            return False
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        is_free = _try_lock(descriptor, shared=True)
        _unlock(descriptor)
        return None if is_free is None else not is_free


def _try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Try to lock an open file: whether it is locked now; None on a file system without locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _unlock(descriptor: int) -> None:
    """Release a lock, even if a fork shares the open file, and close the file."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
