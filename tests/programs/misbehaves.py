"""`python -m dist_train` in which one rank misbehaves in its fourth step, as the environment says.

DIST_TRAIN_TEST_FAULT: raise, kill, stop, sleep, hold, loader or non_finite; DIST_TRAIN_TEST_RANK: of which rank.
"""

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from dist_train import train
from dist_train.__main__ import start
from dist_train.errors import NonFiniteError

_STEP = 3
_FOR_EVER = 1000  # seconds
_step = train.train_step


def misbehaving_step(state: Any, reduction: Any, batch: Any, config: Any, **named: Any) -> Any:
    wanted = int(os.environ["DIST_TRAIN_TEST_RANK"])
    if batch.step == _STEP and wanted in (int(os.environ.get("RANK", "0")), -1):
        named["mark"]("forward", batch.step)
        FAULTS[os.environ["DIST_TRAIN_TEST_FAULT"]]()
    return _step(state, reduction, batch, config, **named)


def _raise() -> None:
    raise ValueError("bad thing")


def _hold() -> None:
    """Wait in C with Python's lock held, so that no thread of Python runs."""
    ctypes.PyDLL(None).sleep(_FOR_EVER)


def _end_a_worker() -> None:
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    time.sleep(_FOR_EVER)  # torch's handler of SIGCHLD raises here


def _not_finite() -> None:
    raise NonFiniteError("loss nan in step 3, lr 0.1, gradient norm inf, samples 1, 2", overrides="optim.lr=0.05")


FAULTS: dict[str, Callable[[], None]] = {
    "raise": _raise,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda: time.sleep(_FOR_EVER),
    "hold": _hold,
    "loader": _end_a_worker,
    "non_finite": _not_finite,
}

if __name__ == "__main__":
    train.train_step = misbehaving_step  # type: ignore[assignment]
    start()
