"""Read files that other processes or people wrote: a size limit, regular files only, and no wait on a pipe."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

LIMIT = 16 * 2**20
"""Bytes of the largest file that is read whole by default."""
_MISSING = (errno.ENOENT, errno.ENOTDIR)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting.

    Raises:
        OSError: it can't be opened or is not a regular file; `strerror` says which.
    """
    # Without O_NONBLOCK, opening a named pipe waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """Read a whole regular file.

    Raises:
        OSError: it can't be read, is not a regular file, or is larger than `limit` bytes; `strerror` says which.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return content


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object; raises ValueError for anything else, deep nesting included."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """Read a file that holds one JSON object; raises OSError as `read_bytes`, and ValueError as `parse_object`."""
    return parse_object(read_bytes(path, limit))


def list_directory(path: Path) -> list[Path]:
    """List a directory, sorted; empty if there is none. Raises OSError if it can't be listed."""
    try:
        return sorted(path.iterdir())
    except OSError as error:
        if error.errno in _MISSING:
            return []
        raise


def may_exist(path: Path) -> bool:
    """Whether a name exists, a dangling link included, or can't be looked up: to be read, which says why."""
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:
        return getattr(error, "errno", errno.ENOENT) not in _MISSING
    return True
