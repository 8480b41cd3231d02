"""`python -m dist_train` with a pause after each step, so that a test can end it where it wants."""

import os
import time
from pathlib import Path
from typing import Any

from dist_train.__main__ import start
from tests.modules import train

_step = train.train_step


def pause() -> float:
    """Seconds that `$DIST_TRAIN_TEST_SLEEP` gives, or the file of that name at this moment."""
    value = os.environ["DIST_TRAIN_TEST_SLEEP"]
    return float(Path(value).read_text() if Path(value).is_file() else value)


def slow_step(*arguments: Any, **named: Any) -> Any:
    time.sleep(pause())
    return _step(*arguments, **named)


if __name__ == "__main__":
    train.train_step = slow_step
    start()
