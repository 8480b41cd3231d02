"""The number of cores that a process may use."""

import pytest

from dist_train.system.cpu import count_cores


def test_a_scheduler_may_give_fewer_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    there = count_cores()
    for given, expected in (("1", 1), ("100000", there), ("", there), ("0", there), ("many", there)):
        monkeypatch.setenv("DIST_TRAIN_CORES", given)
        assert count_cores() == expected
