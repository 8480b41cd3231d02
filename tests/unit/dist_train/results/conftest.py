"""A small trained run, for all that shows its results."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_train import load_config, train
from dist_train.interface.process import restored_process

SMALL = ["data.limit_train=96", "data.limit_test=40", "train.epochs=2", "train.ema_decay=0.9"]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a run on the digits that has seen 96 of them twice; its test split has 40."""
    path = tmp_path_factory.mktemp("results") / "digits"
    train(load_config("digits", [*SMALL, f"run.dir={path}"]))
    return path


@pytest.fixture(autouse=True)
def process_stays() -> Iterator[None]:
    """Put back what a command changes in the process of the tests."""
    with restored_process():
        yield
