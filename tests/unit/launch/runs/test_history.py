"""The jobs of a run, read from `jobs/`."""

import pytest

from dist_train.run_dir import RunDir
from launch.runs.history import JobHistory
from tests.unit.launch.run_files import leave_job, leave_run, leave_start

pytestmark = pytest.mark.usefixtures("runs_dir")


def test_damaged_lines_are_left_out() -> None:
    path = leave_run("runs/a")
    leave_job(path, 1, "11")
    leave_start(path, "12")
    with (RunDir(path).jobs / "starts.jsonl").open("a") as file:
        file.write('[]\n{"job_id": "13"}\n{"job_id": "1')
    (RunDir(path).jobs / "2").mkdir()
    (RunDir(path).jobs / "2" / "job.json").write_text('{"job_id": "14", "submitted": "yesterday"}')
    assert JobHistory.read(path).job_ids == ["11", "12"]
