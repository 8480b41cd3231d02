"""Where log lines go: rank 0's to the terminal, around a progress bar, and to `logs/`; of the others only warnings."""

import logging
import sys
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from dist_train.lines import Lines
from dist_train.world import World

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


class _File(logging.Handler):
    """Lines appended to a file; on a full disk they wait."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._lines = Lines(path)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.write(f"{self.format(record)}\n")

    def close(self) -> None:
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


def log_to_file(directory: Path) -> logging.Handler:
    """Also append this process's lines to `rank_0.log`, with those from before there was a directory for them."""
    file = _File(directory / "rank_0.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for early in [handler for handler in _ROOT.handlers if isinstance(handler, MemoryHandler)]:
        early.setTarget(file)
        early.flush()
        _ROOT.removeHandler(early)
    _ROOT.addHandler(file)
    return file


def stop_logging_to_file(file: logging.Handler) -> None:
    _ROOT.removeHandler(file)
    file.close()
