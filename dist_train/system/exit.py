"""How a command of this package ends: its exit code, and what is printed and by whom."""

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from dist_train.errors import ConfigError, RefusedElsewhereError, SaveError, UserError, is_told
from dist_train.system.stop_signals import StopRequested

PATIENCE = 5.0  # seconds; a launcher ends the other ranks within one of them
FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
CLOSED_PIPE = 141  # 128 + SIGPIPE: whoever read our output has gone, as in `... | head`


def run_guarded(main: Callable[[], int | None]) -> int:
    """Run a command; returns its exit code, which is what `main` returns where nothing is raised, and None is 0.

    A UserError and a SaveError are printed as they stand, any other exception with its traceback; under torchrun that
    is also recorded where torchrun looks for the first failure of a group. What a screen has told of already is not
    told again.
    """
    try:
        return _recorded(main)() or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return CLOSED_PIPE
    except Exception as error:
        _tell(error)
        return int(getattr(error, "exit_code", FAILED))


def _tell(error: Exception) -> None:
    """Print what ends the process, as far as it has to be and nobody else has."""
    if isinstance(error, RefusedElsewhereError):
        time.sleep(PATIENCE)  # to leave first would make the launcher end the rank that is about to say why
    elif isinstance(error, UserError | SaveError) and not is_told(error):
        print(error, file=sys.stderr, flush=True)
    elif not isinstance(error, StopRequested) and not is_told(error):
        traceback.print_exc()


def leave(code: int) -> NoReturn:
    """End the process at once, without tearing the interpreter down.

    Gloo's threads outlive `destroy_process_group` where DDP was used (its C++ reducer keeps the group), and one that
    lets go of a tensor of Python's while the interpreter is being torn down ends the process with SIGABRT, after its
    work was done: seen in 9 of about 110 short runs of two ranks under load. Everything of ours is closed by now.
    """
    logging.shutdown()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Parser(argparse.ArgumentParser):
    """Arguments of a command; a fault in them is a ConfigError, so that only one rank prints it."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.format_usage()}{self.prog}: {message}")


@contextmanager
def first_rank_speaks() -> Iterator[None]:
    """Let the first rank of each machine say what its ranks find before they know of each other.

    The launcher ends the others as soon as the first has left. One that is still there after a while has found a
    fault of its own, and says it.
    """
    try:
        yield
    except UserError:
        if not is_first_rank():
            time.sleep(PATIENCE)
        raise


def is_first_rank() -> bool:
    """Whether this is the first rank of its machine, or a process without a launcher."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _recorded(main: Callable[[], int | None]) -> Callable[[], int | None]:
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return main
    from torch.distributed.elastic.multiprocessing.errors import record

    def unless_refused() -> int | BaseException | None:
        # torchrun would print the traceback of what it records: a refusal has none to show, a screen has shown it.
        try:
            return main()
        except (UserError, SaveError, StopRequested, KeyboardInterrupt) as refusal:
            return refusal
        except Exception as error:
            if is_told(error):
                return error
            raise

    def recorded() -> int | None:
        if isinstance(ended := record(unless_refused)(), BaseException):
            raise ended
        return ended

    return recorded
