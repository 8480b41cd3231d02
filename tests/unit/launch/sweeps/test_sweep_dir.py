"""The lock of a sweep's directory."""

import fcntl
import json
import os

import pytest

from dist_train.errors import ConfigError
from launch.sweeps import sweep_dir
from tests.unit.launch.sweeps.sweep_files import begin

pytestmark = pytest.mark.usefixtures("small_yaml")


def test_only_one_sweep_works_in_a_directory() -> None:
    sweep = begin("optim.lr=0.1,0.2")
    with (sweep.directory / "sweep.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="is in use by another sweep"), sweep.claim():
            pytest.fail("claimed")
    with sweep.claim():
        assert sweep_dir.find_worker(sweep.directory) == os.getpid()


def test_a_process_that_is_over_does_not_work_there() -> None:
    sweep = begin("optim.lr=0.1,0.2")
    lock = sweep.directory / "sweep.lock"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "start": 1}))
    assert sweep_dir.find_worker(sweep.directory) is None
