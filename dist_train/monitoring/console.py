"""Where log lines go: to a file of each rank, and rank 0's to the terminal, around a progress bar.

Of the other ranks the terminal shows only warnings.
"""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from dist_train.distributed.world import World
from dist_train.system.append_file import Lines
from dist_train.system.stop_signals import StopRequested

_ROOT = logging.getLogger("dist_train")


class _Terminal(logging.StreamHandler[TextIO]):
    """Lines that leave a progress bar in one piece."""

    is_read = True

    def emit(self, record: logging.LogRecord) -> None:
        if self.is_read:
            with tqdm.external_write_mode(file=self.stream):
                super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            self.is_read = False  # whoever read has gone, as in `... | head`; the run goes on
        else:
            super().handleError(record)


class RankLog(logging.Handler):
    """Lines appended to the file of one rank; on a full disk they wait."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        super().__init__()
        self._lines = Lines(path)
        self._is_open = True
        self.outcome = "done"
        """How the rank leaves if nothing is raised."""

    def note(self, text: str, error: BaseException | None = None) -> None:
        """A line that no terminal shows; with the traceback of `error`."""
        raised = (type(error), error, error.__traceback__) if error else None
        self.handle(_ROOT.makeRecord(__name__, logging.INFO, __file__, 0, text, (), raised))

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_open:
            self._lines.write(f"{self.format(record)}\n")

    def close(self) -> None:
        """May be called again, as logging does at the end of the process."""
        if self._is_open:
            self._is_open = False
            self._lines.close()
        super().close()


class _Marked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def log_to_terminal(world: World, stream: TextIO) -> None:
    """Show this process's lines if it is rank 0; only warnings of the others, with their rank."""
    terminal = _Terminal(stream)
    terminal.setFormatter(_Marked("%(message)s" if world.is_main else f"rank {world}: %(message)s"))
    terminal.setLevel(logging.INFO if world.is_main else logging.WARNING)
    _ROOT.handlers = [terminal, MemoryHandler(1000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)]
    _ROOT.setLevel(logging.INFO)
    _ROOT.propagate = False


@contextmanager
def log_to_file(directory: Path, world: World, step: int) -> Iterator[RankLog]:
    """Also append this process's lines to `rank_R.log`, those from before included, until the block ends.

    Around them the file has how the rank began, at finished step `step`, and how it left.

    Raises:
        OSError: rank 0 can't make its file. Another rank goes on without one: its disk may be another, and nothing
            of the run lies there.
    """
    log = _opened(directory, world)
    for early in [handler for handler in _ROOT.handlers if isinstance(handler, MemoryHandler)]:
        early.setTarget(log)
        early.flush()
        _ROOT.removeHandler(early)
    _ROOT.addHandler(log)
    log.note(f"rank {world} starts at step {step} on {world.device}: host {socket.gethostname()}, pid {os.getpid()}")
    try:
        yield log
        log.note(f"rank {world} leaves: {log.outcome}")
    except StopRequested as error:
        log.note(f"rank {world} leaves: {error or 'asked to stop'}")
        raise
    except BaseException as error:
        log.note(f"rank {world} leaves by an exception", error)
        raise
    finally:
        _ROOT.removeHandler(log)
        log.close()


def _opened(directory: Path, world: World) -> RankLog:
    path = directory / f"rank_{world.rank}.log"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        log = RankLog(path)
    except OSError as error:
        if world.is_main:
            raise
        _ROOT.warning("%s: can't be written: %s; the run goes on", path, error.strerror)
        log = RankLog(Path(os.devnull))
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return log
