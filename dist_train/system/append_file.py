"""A file that grows at its end and outlives a full disk."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 2**16  # bytes
_log = logging.getLogger(__name__)


class Lines:
    """Appends to a file, written through at once.

    What the disk does not take now is kept and tried again with the next write, from the very byte where it stopped:
    the file is at any time the beginning of what was meant. The first failure is told, and then none until the disk
    has taken all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._pending = bytearray()
        self._has_warned = False

    def write(self, text: str | bytes) -> None:
        """Append as much as the disk takes."""
        self._pending += text.encode(errors="replace") if isinstance(text, str) else text
        try:
            while self._pending:
                del self._pending[: os.write(self._descriptor, self._pending)]
        except OSError as error:
            self._warn(error)
        else:
            self._has_warned = False

    def sync(self) -> None:
        """Make what the disk has taken survive a power cut; any thread may call this."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        """Try the rest once more and close the file."""
        self.write(b"")
        try:
            os.close(self._descriptor)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        # A log may be such a file itself, and gets this line: it must not warn of that again.
        has_warned, self._has_warned = self._has_warned, True
        if not has_warned:
            _log.warning("%s: can't be written: %s; the run goes on", self.path, error.strerror)


def backward(path: Path) -> Iterator[bytes]:
    """The lines of a file from its last to its first, without their newlines; no more is read than is asked for.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        position, rest = file.seek(0, os.SEEK_END), b""
        is_end = True
        while position:
            start = max(0, position - _BLOCK)
            file.seek(start)
            rest, *lines = (file.read(position - start) + rest).split(b"\n")
            if is_end and lines and not lines[-1]:
                del lines[-1]  # what follows the last newline is no line
            yield from reversed(lines)
            position, is_end = start, False
        if rest or not is_end:
            yield rest
