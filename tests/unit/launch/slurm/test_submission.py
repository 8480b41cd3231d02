"""The environment of a submitted job."""

import pytest

from launch.slurm import submission


def test_a_job_inherits_nothing_of_the_job_that_submits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_RESTART_COUNT", "SLURM_ARRAY_TASK_ID", "SLURM_CPUS_PER_TASK", "DIST_TRAIN_TRIALS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("DIST_TRAIN_MAX_RESTARTS", "3")
    left = submission.remove_job_variables()
    assert {name for name in left if name.startswith("SLURM_")} == {"SLURM_CONF"}
    assert (left["DIST_TRAIN_MAX_RESTARTS"], "DIST_TRAIN_TRIALS" in left) == ("3", False)
