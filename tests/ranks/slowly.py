"""`python -m dist_train` with a pause after each step, so that a test can end it where it wants."""

import os
import time
from typing import Any

from torch import Tensor

from dist_train import train
from dist_train.__main__ import start
from dist_train.recorder import unmarked

_step = train.train_step


def slow_step(training: Any, batch: Any, stop: bool = False, mark: Any = unmarked) -> Tensor | None:
    time.sleep(float(os.environ["DIST_TRAIN_TEST_SLEEP"]))
    return _step(training, batch, stop, mark)


if __name__ == "__main__":
    train.train_step = slow_step
    start()
