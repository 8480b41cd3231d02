"""The table of a training beside other busy programs."""

import os
import subprocess

import pytest

from benchmarks.single import foreign_load
from tests.conftest import children_of


def test_a_row_compares_auto_with_the_best() -> None:
    assert foreign_load.format_row(2, [8883, 118.4, 8000]) == "| 2 | 8,883 | 118 | 8,000 | 0.90 |"


def test_busy_programs_end_with_the_block() -> None:
    before = children_of(os.getpid())
    with foreign_load.busy_programs(2):
        assert len(children_of(os.getpid()) - before) == 2
    assert children_of(os.getpid()) == before


def test_a_training_is_measured_by_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 0, "step 300\n12,345 samples/s while training\nrun: x\n", "")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: done)
    assert foreign_load.train("auto") == 12345
