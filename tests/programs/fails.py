"""`python -m dist_train` in which the last rank fails in its third step."""

from typing import Any

from torch import Tensor

from dist_train import train
from dist_train.__main__ import start
from dist_train.diagnostics.recorder import ignore_mark

_step = train.train_step


def failing_step(training: Any, batch: Any, stop: bool = False, mark: Any = ignore_mark) -> Tensor | None:
    if batch.step == 2 and training.world.rank == training.world.size - 1:
        raise ZeroDivisionError(f"rank {training.world.rank} fails on purpose")
    return _step(training, batch, stop, mark)


if __name__ == "__main__":
    train.train_step = failing_step
    start()
