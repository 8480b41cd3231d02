"""The end of a command: its exit code, its error message, and which rank prints it."""

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any, NoReturn

from dist_train.errors import (
    ConfigError,
    OutputError,
    OwnCodeError,
    RefusedElsewhereError,
    SaveError,
    UserError,
    is_reported,
)
from dist_train.system.escape import escape, escape_lines
from dist_train.system.inherited_state import check_output, check_working_directory, repair_inherited_state
from dist_train.system.stop_signals import StopRequested

PATIENCE = 5.0  # seconds; a launcher ends the other ranks within one second
FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as in shells
CLOSED_PIPE = 141  # 128 + SIGPIPE: the reader of the output has ended, as in `... | head`


def run_guarded(main: Callable[[], int | None]) -> int:
    """Run a command and return its exit code: the result of `main`, with None as 0, or that of its exception.

    A UserError, a SaveError and an OwnCodeError are printed without our traceback, other exceptions with it. Under
    torchrun these are also written to torchrun's error file. Errors that are already reported are not printed again.
    Output that can't be written is a failure.
    """
    repair_inherited_state()
    try:
        check_working_directory()
        code = _run(_record_failure(main))
        check_output()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return CLOSED_PIPE
    except BaseException as error:  # a model or data set that calls sys.exit has not done the work
        _print_error(error)
        with suppress(OutputError, OSError):  # once; the interpreter would write it again at the end
            check_output()
        return int(getattr(error, "exit_code", FAILED))


def _run(main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except _ParserExit as error:
        return int(error.code or 0)


def _print_error(error: BaseException) -> None:
    if isinstance(error, RefusedElsewhereError):
        time.sleep(PATIENCE)  # leaving first would make the launcher end the rank that prints the reason
    elif isinstance(error, UserError | SaveError | OwnCodeError | OutputError) and not is_reported(error):
        print(escape_lines(str(error)), file=sys.stderr, flush=True)
    elif not isinstance(error, StopRequested) and not is_reported(error):
        traceback.print_exc()


def leave(code: int) -> NoReturn:
    """End the process at once, without finalizing the interpreter.

    After DDP, Gloo's threads outlive `destroy_process_group`, because DDP's C++ reducer keeps the group. A thread that
    releases a Python tensor during finalization ends the process with SIGABRT: seen in 9 of about 110 short runs of two
    ranks under load. All files are closed by now.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # A module of the user's may have closed or removed it.
        with suppress(OSError, OutputError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


class _ParserExit(SystemExit):
    """The end of a command that has printed its help."""


class _PrintVersions(argparse.Action):
    """Prints the versions of dist-train, torch and Python, without importing torch."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(describe_versions())
        parser.exit()


def describe_versions() -> str:
    """Return the versions of dist-train, torch and Python on one line."""
    from importlib import metadata
    from platform import python_version

    from dist_train import __version__

    try:
        torch = f"torch {metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        torch = "no torch"
    return f"dist-train {__version__}, {torch}, Python {python_version()}"


class Parser(argparse.ArgumentParser):
    """An argument parser with `--version` that raises a ConfigError, so that only one rank prints what is wrong.

    Attributes:
        advice: ends the message about an unknown option.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.advice = ""
        self.add_argument("--version", action=_PrintVersions, nargs=0, help="print the versions and exit")

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        return self._refuse_unknown(*self.parse_known_args(args, namespace))

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        return self._refuse_unknown(*self.parse_known_intermixed_args(args, namespace))

    def has_option(self, flag: str) -> bool:
        """Whether an option is called so."""
        return flag in self._option_string_actions

    def _refuse_unknown(self, options: argparse.Namespace, unknown: Sequence[str]) -> argparse.Namespace:
        if unknown:
            # Without the dashes, which would make short names alike.
            known = [flag.removeprefix("--") for flag in self._option_string_actions if flag.startswith("--")]
            given = [each.partition("=")[0].lower().removeprefix("--") for each in unknown if each.startswith("-")]
            close = [f"--{guess}" for each in given for guess in get_close_matches(each, known, 1)]
            guess = f". Did you mean {' and '.join(close)}?" if close else self.advice and f"; {self.advice}"
            self.error(f"unrecognized arguments: {' '.join(unknown)}{guess}")
        return options

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.format_usage()}{self.prog}: {escape(message, 2000)}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        if message:
            print(message, end="", file=sys.stderr)
        raise _ParserExit(status)


@contextmanager
def only_first_rank_reports() -> Iterator[None]:
    """Let only the first rank of each machine report a UserError that all its ranks raise before they are connected.

    The launcher ends the other ranks as soon as the first one has left. A rank that still runs after PATIENCE has an
    error of its own, and reports it.
    """
    try:
        yield
    except RefusedElsewhereError:
        raise
    except UserError:
        if not is_first_rank():
            time.sleep(PATIENCE)
        raise


def is_first_rank() -> bool:
    """Whether this is local rank 0, or a process without a launcher."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _record_failure(main: Callable[[], int | None]) -> Callable[[], int | None]:
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return main
    from torch.distributed.elastic.multiprocessing.errors import record

    def catch_unrecorded() -> int | BaseException | None:
        # torchrun would print a traceback of what is recorded, which these errors must not have.
        try:
            return main()
        except (UserError, SaveError, OwnCodeError, OutputError, StopRequested, KeyboardInterrupt, SystemExit) as error:
            return error
        except Exception as error:
            if is_reported(error):
                return error
            raise

    def recorded() -> int | None:
        if isinstance(ended := record(catch_unrecorded)(), BaseException):
            raise ended
        return ended

    return recorded
