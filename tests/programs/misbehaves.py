"""`python -m dist_train` in which one rank has a fault in its fourth step.

DIST_TRAIN_TEST_FAULT: raise, kill, sleep or loader; DIST_TRAIN_TEST_RANK: the rank.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from dist_train.__main__ import start
from tests.modules import train

_STEP = 3
_FOR_EVER = 1000  # seconds
_step = train.train_step


def step_with_fault(state: Any, reduction: Any, task: Any, batch: Any, config: Any, **named: Any) -> Any:
    if batch.step == _STEP and os.environ["RANK"] == os.environ["DIST_TRAIN_TEST_RANK"]:
        named["mark"]("forward", batch.step)
        FAULTS[os.environ["DIST_TRAIN_TEST_FAULT"]]()
    return _step(state, reduction, task, batch, config, **named)


def _raise() -> None:
    raise ValueError("bad thing")


def _kill_a_worker() -> None:
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    time.sleep(_FOR_EVER)  # torch's handler of SIGCHLD raises here


FAULTS: dict[str, Callable[[], None]] = {
    "raise": _raise,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sleep": lambda: time.sleep(_FOR_EVER),
    "loader": _kill_a_worker,
}

if __name__ == "__main__":
    train.train_step = step_with_fault
    start()
