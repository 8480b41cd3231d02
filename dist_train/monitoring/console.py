"""Log lines: each rank's in its own file, rank 0's and all warnings on the terminal, around a progress bar."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from dist_train.distributed.world import World
from dist_train.system.append_file import AppendFile
from dist_train.system.escape import escape
from dist_train.system.stop_signals import StopRequested

_LONGEST = 20_000  # characters of a line
_ROOT = logging.getLogger("dist_train")


class _TerminalHandler(logging.StreamHandler[TextIO]):
    """Prints lines without breaking a progress bar."""

    is_open = True

    def emit(self, record: logging.LogRecord) -> None:
        if self.is_open:
            with tqdm.external_write_mode(file=self.stream):
                super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            self.is_open = False  # the reader has exited, as in `... | head`; the run continues
        else:
            super().handleError(record)


class RankLog(logging.Handler):
    """Appends lines to the log file of one rank; while the disk is full, they stay in memory."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        super().__init__()
        self._lines = AppendFile(path)
        self._is_open = True
        self.outcome = "done"
        """How the rank ends if nothing is raised: the last words of the file."""

    def write_line(self, text: str, error: BaseException | None = None) -> None:
        """Write a line to the file only, with the traceback of `error`."""
        exc_info = (type(error), error, error.__traceback__) if error else None
        self.handle(_ROOT.makeRecord(__name__, logging.INFO, __file__, 0, text, (), exc_info))

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_open:
            self._lines.write(f"{self.format(record)}\n")

    def close(self) -> None:
        """May be called again, as `logging.shutdown` does."""
        if self._is_open:
            self._is_open = False
            self._lines.close()
        super().close()


class _SafeFormatter(logging.Formatter):
    """Escapes what acts on a terminal, such as in a path or a library's message; only our own text has line ends."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(args := record.args, tuple):
            record = copy(record)  # other handlers show it too
            record.args = tuple(arg if isinstance(arg, int | float) else escape(arg, _LONGEST) for arg in args)
        return "\n".join(escape(line, _LONGEST) for line in super().format(record).split("\n"))


class _LevelFormatter(_SafeFormatter):
    """Puts the level before warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def log_to_terminal(world: World, stream: TextIO) -> None:
    """Print the lines of rank 0, and the warnings of the other ranks with their rank."""
    terminal = _TerminalHandler(stream)
    terminal.setFormatter(_LevelFormatter("%(message)s" if world.is_main else f"rank {world}: %(message)s"))
    terminal.setLevel(logging.INFO if world.is_main else logging.WARNING)
    _ROOT.handlers = [terminal, MemoryHandler(1000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)]
    _ROOT.setLevel(logging.INFO)
    _ROOT.propagate = False


@contextmanager
def log_to_file(directory: Path, world: World, step: int) -> Iterator[RankLog]:
    """Append the log lines of this process to `rank_R.log` until the block ends, including those from before it.

    The file also says how the rank began, after `step` finished steps, and how it ended.

    A rank that can't create its file continues without one.
    """
    log = _open_log(directory, world)
    for buffer in [handler for handler in _ROOT.handlers if isinstance(handler, MemoryHandler)]:
        buffer.setTarget(log)
        buffer.flush()
        _ROOT.removeHandler(buffer)
    _ROOT.addHandler(log)
    log.write_line(
        f"rank {world} starts at step {step} on {world.device}: host {socket.gethostname()}, pid {os.getpid()}"
    )
    try:
        yield log
        log.write_line(f"rank {world} leaves: {log.outcome}")
    except StopRequested as error:
        log.write_line(f"rank {world} leaves: {error or 'asked to stop'}")
        raise
    except BaseException as error:
        log.write_line(f"rank {world} leaves by an exception", error)
        raise
    finally:
        _ROOT.removeHandler(log)
        log.close()


def _open_log(directory: Path, world: World) -> RankLog:
    path = directory / f"rank_{world.rank}.log"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        log = RankLog(path)
    except OSError as error:
        _ROOT.warning("%s: can't be written: %s; the run continues", path, error.strerror)
        log = RankLog(Path(os.devnull))
    log.setFormatter(_SafeFormatter("%(asctime)s %(levelname)s %(message)s"))
    return log
