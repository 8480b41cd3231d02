"""Read files that other processes or people wrote: a size limit, regular files only, and no wait on a pipe."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

LIMIT = 16 * 2**20
"""Bytes of the largest file that is read whole by default."""


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """Read a whole regular file.

    Raises:
        OSError: it can't be read, is not a regular file, or is larger than `limit` bytes; `strerror` says which.
    """
    # Without O_NONBLOCK, opening a named pipe waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return content


def parse_object(text: bytes) -> dict[str, Any]:
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
