"""Appends to files, and continues after a full disk; reads and cuts lines from the end of a file."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import BinaryIO

from dist_train.system.read_file import open_regular, parse_object

_BLOCK = 2**16  # bytes
_LONGEST = 2**20  # bytes of a line; of a longer one, which nothing here writes, only the beginning is kept
_log = logging.getLogger(__name__)


class AppendFile:
    """Appends to a file without a buffer of its own.

    Bytes that cannot be written are kept and tried again by the next write, so that the file is always a prefix of what
    was to be written. The first failure is logged, and further ones only after everything was written in between.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Without O_NONBLOCK, opening a named pipe waits until a process reads it.
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
        self._pending = bytearray()
        self._reason = ""
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

    def rename(self, path: Path) -> None:
        """Rename the file; raises OSError."""
        self.path.replace(path)
        self.path = path

    @property
    def missing(self) -> str | None:
        """What could not be written so far, and why; None if the file has everything."""
        return f"{self.path}: {len(self._pending)} bytes can't be written: {self._reason}" if self._pending else None

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
        self._reason = error.strerror or str(error)
        has_warned, self._has_warned = self._has_warned, True
        if not has_warned:
            _log.warning("%s: can't be written: %s; the run continues", self.path, self._reason)


def read_lines_backward(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file from the last to the first, without newlines; reads only as far as needed.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        yield from (line for _, line in _scan_backward(file))


def count_damaged(path: Path, is_undamaged: Callable[[bytes], object], most: int = 300) -> int:
    """Count the damaged ones among the last lines of a file; raises OSError."""
    return sum(not is_undamaged(line) for line in islice(read_lines_backward(path), most))


def read_step(text: bytes) -> int | None:
    """Return the step that a line names, whatever else in it is damaged; None if it names none."""
    try:
        step = parse_object(text).get("step")
    except ValueError:
        return None
    return step if type(step) is int and step > 0 else None


def cut_lines(path: Path, is_kept: Callable[[bytes], bool | None] | None) -> None:
    """Remove all lines after those that are kept, None: all lines; reads only as far as needed.

    Where `is_kept` can't tell (None), the line stays if no line before it is removed and no kill has cut it short.
    The file is shortened in place. A kept line that has lost its newline gets it back.

    Raises:
        OSError: the file cannot be read or changed, or is not a regular file.
    """
    if is_kept is None:
        os.truncate(path, 0)
        return
    with open_regular(path) as file:
        size = end = file.seek(0, os.SEEK_END)
        for start, line in _scan_backward(file):
            kept, is_cut_short = is_kept(line), start + len(line) == size
            if kept:
                end += is_cut_short
                break
            if kept is False or is_cut_short:
                end = start
    if end < size:
        os.truncate(path, end)
    elif end > size:
        with path.open("ab") as file:
            file.write(b"\n")


def _scan_backward(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield offset and text of each line, the last one first."""
    position, is_end = file.seek(0, os.SEEK_END), True
    rest = deque[bytes]()  # the parts of a line whose beginning has not been read
    while position:
        start = max(0, position - _BLOCK)
        file.seek(start)
        rest.appendleft(file.read(position - start))
        if b"\n" in rest[0]:
            first, *lines = b"".join(rest).split(b"\n")
            if is_end and not lines[-1]:
                del lines[-1]  # nothing follows the last newline
            offsets = accumulate((len(line) + 1 for line in lines), initial=start + len(first) + 1)
            yield from reversed(list(zip(offsets, lines, strict=False)))
            rest = deque([first])
        elif len(rest) > max(1, _LONGEST // _BLOCK):
            rest.pop()
        position, is_end = start, False
    if not is_end:
        yield 0, b"".join(rest)
