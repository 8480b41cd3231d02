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

from dist_train.errors import ConfigError, OutputError


def repair_inherited_state() -> None:
    """Open the standard streams that are closed, show every character, and let children leave an exit code."""
    _open_closed_streams()
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:  # else somebody else has replaced it
        sys.stdout = _watch(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an encoding such as ASCII has few characters
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the kernel drops the exit codes of children


def check_output() -> None:
    """Write what standard output has buffered.

    Raises:
        OutputError, BrokenPipeError: something could not be written, now or before.
    """
    if sys.stdout is None or sys.stdout.closed:  # by a module of the user's
        return
    sys.stdout.flush()
    file = _find_file(sys.stdout)
    if file and file.error:
        raise file.error


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
    prepare_error_stream()
    forgive_output()


def prepare_error_stream() -> None:
    """Do for standard error what `prepare_streams` does."""
    repair_inherited_state()
    sys.stderr = _forgive(sys.stderr)
    with suppress(OSError, ValueError):  # under a test it is no file
        faulthandler.enable(sys.stderr.fileno())


def forgive_output() -> None:
    """Let standard output be as /dev/null from now on if it can't be written."""
    sys.stdout = _forgive(sys.stdout)


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
    stream = _watch(stream)
    if file := _find_file(stream):
        file.forgives = True
    return stream


def _watch(stream: TextIO) -> TextIO:
    """Return a stream to the same file that remembers an error."""
    if _find_file(stream):
        return stream
    try:
        raw = _WatchedFile(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):  # no file, as under a test
        return stream
    with suppress(OSError):
        stream.flush()
    is_unbuffered = getattr(stream, "write_through", False)  # PYTHONUNBUFFERED
    return io.TextIOWrapper(
        raw if is_unbuffered else io.BufferedWriter(raw),
        stream.encoding,
        "backslashreplace",
        line_buffering=stream is sys.stderr or raw.isatty(),
        write_through=is_unbuffered,
    )


def _find_file(stream: TextIO) -> "_WatchedFile | None":
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, _WatchedFile) else None


class _WatchedFile(io.FileIO):
    """A file that raises once that it can't be written: the disk is full, or the reader of a pipe has ended.

    What it raises is no OSError, which a reader of another file would take for its own.

    Attributes:
        error: what it has raised.
        forgives: nothing is raised.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.error: Exception | None = None
        self.forgives = False

    def write(self, content: Any) -> int:
        rest = memoryview(content).cast("B")
        size = len(rest)
        while rest and not self.error:
            try:
                written = super().write(rest)
                if written is None:  # whoever shares the pipe has made it non-blocking
                    select.select([], [self], [])
                rest = rest[written or 0 :]
            except (OSError, ValueError) as error:
                if self.forgives:
                    break
                self.error = error
                if not isinstance(error, BrokenPipeError):
                    reason = getattr(error, "strerror", None) or error
                    self.error = OutputError(f"standard output: can't be written: {reason}")
                raise self.error from None
        return size
