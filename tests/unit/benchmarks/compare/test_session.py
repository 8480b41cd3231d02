"""Runs of ours in a session."""

import sys
from pathlib import Path

import pytest

from benchmarks.compare import builders
from benchmarks.compare.session import merge_settings, own_settings, run_and_read
from benchmarks.compare.workloads import WORKLOADS
from benchmarks.processes import FailedError
from dist_train.settings.loader import load_config
from tests.unit.benchmarks.records import make_session


def test_readings_count_if_the_command_fails_after_the_last(tmp_path: Path) -> None:
    readings = tmp_path / "readings"
    write = f"open({str(readings)!r}, 'w').write('{{\"step\": 5, \"time\": 1.0}}\\n')"
    command = [sys.executable, "-c", f"import os; {write}; os.abort()"]
    _, lines = run_and_read(command, readings, last=5)
    assert lines == [{"step": 5, "time": 1.0}]
    with pytest.raises(FailedError, match="exit code -6"):
        run_and_read(command, readings, last=6)


@pytest.mark.parametrize("name", WORKLOADS)
def test_our_settings_are_valid(name: str, tmp_path: Path) -> None:
    ours = merge_settings(
        own_settings(make_session(tmp_path), WORKLOADS[name]), ["log.every_steps=1", "train.max_steps=1"]
    )
    config = load_config(builders.CONFIGS / WORKLOADS[name].recipe, ours)
    assert config.log.every_steps == 1
    assert config.log.ledger
    assert config.log.tensorboard


def test_an_override_is_given_once() -> None:
    assert merge_settings(["a=1", "b=2"], ["a=3", "c=4"]) == ["a=3", "b=2", "c=4"]
