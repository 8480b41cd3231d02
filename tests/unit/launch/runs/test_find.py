"""Find the run or the sweep of a job."""

import pytest

from launch.runs.history import JobHistory
from tests.unit.launch.command import run_command
from tests.unit.launch.run_files import leave_job, leave_run, leave_start, leave_sweep

pytestmark = pytest.mark.usefixtures("runs_dir")


def test_the_run_of_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    leave_job(leave_run("runs/a"), 1, "11")
    leave_start(leave_run("runs/b", job_id="12"), "12", restart=1)
    leave_run("runs/c", job_id="13")
    for job, run in (("11", "runs/a"), ("12", "runs/b"), ("13", "runs/c")):
        code, output = run_command(capsys, "status", job)
        assert (code, output.startswith(f"{run}: ")) == (0, True)
    assert "1 of the job" in run_command(capsys, "status", "12")[1]


def test_a_job_array_is_a_sweep_and_its_tasks_are_trials(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = leave_sweep("runs/x.sweep", 0.1, 0.2)
    leave_job(sweep, 1, "20", tasks=(0, 1))
    leave_job(sweep, 2, "21", tasks=(0,))
    leave_run(sweep / "1-lr")
    assert run_command(capsys, "status", "20")[1].startswith("TRIAL")
    assert run_command(capsys, "status", "20_1")[1].startswith("runs/x.sweep/1-lr: done")
    assert run_command(capsys, "status", "20_0")[0] == 0
    assert JobHistory.read(sweep / "0-lr").job_ids == ["20_0", "21_0"]
    assert JobHistory.read(sweep / "1-lr").job_ids == ["20_1"]
