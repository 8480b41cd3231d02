"""Where log lines go: rank 0's to the terminal (around a progress bar) and every rank's own to `logs/`."""

import logging
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from dist_train.world import World

_ROOT = logging.getLogger("dist_train")


class _Terminal(logging.StreamHandler[TextIO]):
    """Lines that leave a progress bar in one piece."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _Marked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def log_to_terminal(world: World, stream: TextIO) -> None:
    """Show this process's lines if it is rank 0; only warnings of the others, with their rank."""
    terminal = _Terminal(stream)
    terminal.setFormatter(_Marked("%(message)s" if world.is_main else f"rank {world}: %(message)s"))
    terminal.setLevel(logging.INFO if world.is_main else logging.WARNING)
    _ROOT.handlers = [terminal]
    _ROOT.setLevel(logging.INFO)
    _ROOT.propagate = False


def log_to_file(directory: Path, world: World) -> logging.Handler:
    """Also append the lines to `rank_<rank>.log`, which appears with its first line."""
    file = logging.FileHandler(directory / f"rank_{world.rank}.log", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if not world.is_main:
        file.setLevel(logging.WARNING)
    _ROOT.addHandler(file)
    return file


def stop_logging_to_file(file: logging.Handler) -> None:
    _ROOT.removeHandler(file)
    file.close()
