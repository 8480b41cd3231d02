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

from dist_train.errors import ConfigError, OutputClosedError, OutputError


def repair_inherited_state() -> None:
    """Open the standard streams that are closed, show every character, and let children leave an exit code."""
    _open_closed_streams()
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:  # else other code has replaced it
        _replace("stdout", _watch(sys.stdout))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an encoding such as ASCII has few characters
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the kernel drops the exit codes of children


def check_output() -> None:
    """Write what standard output has buffered, also where the user's code has put another stream into its place.

    Raises:
        OutputError: something could not be written, now or before.
    """
    for stream in (sys.stdout, sys.__stdout__):
        with suppress(AttributeError, ValueError):  # it has been closed, detached or removed, or can't be flushed
            _flush(stream)


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except OSError as error:
        raise _make_output_error(error) from None
    file = _find_file(stream)
    if file and file.error:
        raise file.error


def check_working_directory() -> None:
    """Raise ConfigError if the directory in which this process was started has been removed.

    Libraries of torch look for their files from there, and end the process without a message.
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
    ignore_output_errors()


def prepare_error_stream() -> None:
    """Do for standard error what `prepare_streams` does."""
    repair_inherited_state()
    _replace("stderr", _ignore_errors(sys.stderr))
    with suppress(OSError, ValueError):  # under a test it is no file
        faulthandler.enable(sys.stderr.fileno())


def ignore_output_errors() -> None:
    """Let standard output be as /dev/null from now on if it can't be written; a notebook's is left as it is."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        _replace("stdout", _ignore_errors(sys.stdout))


def _open_closed_streams() -> None:
    """Put /dev/null where a standard stream is closed: else the next file opened would get its number, and its text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            _replace(name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _replace(name: str, stream: TextIO) -> None:
    """Put a stream into the place of one of Python's.

    Without the second reference it would be closed when the user's code wraps its buffer, for another encoding.
    """
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _ignore_errors(stream: TextIO) -> TextIO:
    stream = _watch(stream)
    if file := _find_file(stream):
        file.ignores_errors = True
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
    raw.name = getattr(stream, "name", raw.name)
    watched = io.TextIOWrapper(
        raw if is_unbuffered else io.BufferedWriter(raw),
        stream.encoding,
        "backslashreplace",
        line_buffering=stream is sys.stderr or raw.isatty(),
        write_through=is_unbuffered,
    )
    watched.mode = "w"  # type: ignore[misc]  # as Python gives its streams
    return watched


def _find_file(stream: TextIO) -> "_WatchedFile | None":
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, _WatchedFile) else None


class _WatchedFile(io.FileIO):
    """A file that raises once that it can't be written: the disk is full, or the reader of a pipe has ended.

    Of a full disk it raises no OSError, which a reader of another file would take for its own.

    Attributes:
        error: what it has raised.
        ignores_errors: nothing is raised.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.error: OutputError | None = None
        self.ignores_errors = False

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
                if self.ignores_errors:
                    break
                self.error = _make_output_error(error)
                raise self.error from None
        return size


def _make_output_error(error: OSError | ValueError) -> OutputError:
    if isinstance(error, BrokenPipeError):
        return OutputClosedError(*error.args)
    return OutputError(f"standard output: can't be written: {getattr(error, 'strerror', None) or error}")
