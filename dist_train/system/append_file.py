"""Appends to files, and continues after a full disk; reads lines from the end of a file."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 2**16  # bytes
_log = logging.getLogger(__name__)


class AppendFile:
    """Appends to a file without a buffer of its own.

    Bytes that cannot be written are kept and tried again by the next write, so that the file is always a prefix of what
    was to be written. The first failure is logged, and further ones only after everything was written in between.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._pending = bytearray()
        self._has_warned = False

    def write(self, text: str | bytes) -> None:
        """Append text, and what earlier writes could not append."""
        self._pending += text.encode(errors="replace") if isinstance(text, str) else text
        try:
            while self._pending:
                del self._pending[: os.write(self._descriptor, self._pending)]
        except OSError as error:
            self._warn(error)
        else:
            self._has_warned = False

    def sync(self) -> None:
        """Flush to the disk, to survive a power cut; any thread may call this."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        """Try once more to write the rest, and close the file."""
        self.write(b"")
        try:
            os.close(self._descriptor)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        # A log may be such a file itself and receive this line: it must not warn about that again.
        has_warned, self._has_warned = self._has_warned, True
        if not has_warned:
            _log.warning("%s: can't be written: %s; the run continues", self.path, error.strerror)


def read_lines_backward(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file from the last to the first, without newlines; reads only as far as needed.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        position, rest = file.seek(0, os.SEEK_END), b""
        is_end = True
        while position:
            start = max(0, position - _BLOCK)
            file.seek(start)
            rest, *lines = (file.read(position - start) + rest).split(b"\n")
            if is_end and lines and not lines[-1]:
                del lines[-1]  # nothing follows the last newline
            yield from reversed(lines)
            position, is_end = start, False
        if rest or not is_end:
            yield rest
