"""Repair what a shell, a daemon, a container or a closed terminal leaves to a process: streams, encoding, signals."""

import faulthandler
import io
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from dist_train.errors import ConfigError


def repair_inherited_state() -> None:
    """Open the standard streams that are closed, show every character, and let children leave an exit code."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an encoding such as ASCII has few characters
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the kernel drops the exit codes of children


def check_working_directory() -> None:
    """Raise ConfigError if the directory in which this process was started has been removed.

    Libraries of torch look for their files from there, and end the process without a word of ours.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigError("the working directory has been removed: change to one that exists (cd ...)") from None


def prepare_streams() -> None:
    """Prepare a training's standard streams: one that can't be written is as /dev/null, for a run has its own log.

    After a crash in C code, such as SIGSEGV, standard error has the stacks of all threads.
    """
    repair_inherited_state()
    sys.stdout, sys.stderr = _forgive(sys.stdout), _forgive(sys.stderr)
    with suppress(OSError, ValueError):  # under a test it is no file
        faulthandler.enable(sys.stderr.fileno())


def _open_closed_streams() -> None:
    """Put /dev/null where a standard stream is closed: else the next file opened would get its number, and its text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _forgive(stream: TextIO) -> TextIO:
    try:
        raw = _ForgivingFile(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):  # no file, as under a test
        return stream
    stream.flush()
    is_interactive = stream is sys.stderr or raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=is_interactive, write_through=False
    )


class _ForgivingFile(io.FileIO):
    """A file that drops what it can't write: the disk is full, or the reader of a pipe has ended."""

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        try:
            written = super().write(content)
            while written is None:  # whoever shares the pipe has made it non-blocking
                select.select([], [self], [])
                written = super().write(content)
        except (OSError, ValueError):
            return size
        return written
