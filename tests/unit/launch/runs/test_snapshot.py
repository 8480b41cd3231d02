"""A run's snapshot: its score, and the command that resumes it."""

import json

import pytest

from dist_train.diagnostics.heartbeat import HeartbeatFile, RankProcess
from dist_train.distributed.world import World
from dist_train.run_dir import RunDir
from launch.runs import snapshot
from tests.unit.launch.run_files import evaluation, leave_job, leave_run

pytestmark = pytest.mark.usefixtures("runs_dir")


def test_the_score_is_the_best_that_runs_are_chosen_by() -> None:
    path = leave_run("runs/a", accuracy=0.99)
    with RunDir(path).metrics.open("a") as file:
        for accuracy in (0.7, 0.8, 0.6):
            file.write(json.dumps(evaluation(accuracy, "validation")) + "\n")
    assert snapshot.read_run(path).score == 0.8


def test_what_goes_on_is_the_submission_where_a_job_came_last() -> None:
    path = leave_run("runs/a", "preempted", job_id="12")
    leave_job(path, 1, "11", "2029-01-01T10:00:00+00:00")
    leave_job(path, 2, "12", "2029-01-02T10:00:00+00:00")
    assert snapshot.read_run(path).resume_command == "dist-train submit a.yaml"
    beats = HeartbeatFile(RunDir(path).diagnostics, RankProcess.current(World(), 1, "dist-train train x.yaml"))
    beats.close()
    status = json.loads(RunDir(path).status.read_text())
    RunDir(path).status.write_text(json.dumps({**status, "job_id": None}))
    assert snapshot.read_run(path).resume_command == "dist-train train x.yaml"


def test_a_run_without_its_status_has_an_unknown_state() -> None:
    """It has begun: there are metrics."""
    path = leave_run("runs/a")
    RunDir(path).status.unlink()
    assert snapshot.read_run(path).state == "unknown"
