"""`python -m dist_train` in which the last rank fails in its third step."""

import os
from typing import Any

from dist_train.__main__ import start
from tests.modules import train

_step = train.train_step


def failing_step(state: Any, reduction: Any, task: Any, batch: Any, *others: Any, **named: Any) -> Any:
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if batch.step == 2 and rank == size - 1:
        raise ZeroDivisionError(f"rank {rank} fails on purpose")
    return _step(state, reduction, task, batch, *others, **named)


if __name__ == "__main__":
    train.train_step = failing_step
    start()
