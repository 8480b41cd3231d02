"""How a command of this package ends: its exit code, and what is printed and by whom."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dist_train.errors import RefusedElsewhereError, UserError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def run_guarded(main: Callable[[], None]) -> int:
    """Run a command; returns its exit code.

    A UserError is printed as it stands. Any other exception is left to Python, which prints its traceback and exits
    with 1; under torchrun it is also recorded where torchrun looks for the first failure of a group.
    """
    try:
        _recorded(main)()
    except RefusedElsewhereError as refused:
        return refused.exit_code
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


@contextmanager
def first_rank_speaks() -> Iterator[None]:
    """Let only the first rank of each machine say what all of them find before they know of each other."""
    try:
        yield
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise RefusedElsewhereError("the first rank of this machine refused") from error
        raise


def _recorded(main: Callable[[], None]) -> Callable[[], None]:
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return main
    from torch.distributed.elastic.multiprocessing.errors import record

    def unless_refused() -> UserError | KeyboardInterrupt | None:
        # torchrun would print the traceback of what it records, and a refusal has none to show.
        try:
            main()
        except (UserError, KeyboardInterrupt) as refusal:
            return refusal
        return None

    def recorded() -> None:
        if (refusal := record(unless_refused)()) is not None:
            raise refusal

    return recorded
