"""`python -m dist_train` on a disk that is full from the save of step DIST_TRAIN_TEST_FULL_FROM to that of ..._TO."""

import errno
import os
from typing import Any

from dist_train.__main__ import main
from dist_train.checkpoint.store import Store
from dist_train.system.exit import leave, run_guarded

_write = Store._write


def write(store: Store, step: int, *arguments: Any) -> None:
    if int(os.environ["DIST_TRAIN_TEST_FULL_FROM"]) <= step <= int(os.environ["DIST_TRAIN_TEST_FULL_TO"]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _write(store, step, *arguments)


if __name__ == "__main__":
    Store._write = write  # type: ignore[method-assign, assignment]
    leave(run_guarded(main))
