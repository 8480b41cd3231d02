"""A run's snapshot: its score, and the command that resumes it."""

import json

import pytest

from dist_train.diagnostics.heartbeat import HeartbeatFile, RankProcess
from dist_train.distributed.world import World
from dist_train.run_dir import RunDir
from launch.runs import snapshot
from launch.runs.format import format_trials, summarize_run
from tests.unit.launch.run_files import evaluation, leave_job, leave_run, leave_sweep

pytestmark = pytest.mark.usefixtures("runs_dir")


def test_the_score_is_the_best_that_runs_are_chosen_by() -> None:
    path = leave_run("runs/a", accuracy=0.99)
    with RunDir(path).metrics.open("a") as file:
        for accuracy in (0.7, 0.8, 0.6):
            file.write(json.dumps(evaluation(accuracy, "validation")) + "\n")
    assert snapshot.read_run(path).score == 0.8


@pytest.mark.parametrize(
    ("settings", "score", "shown"),
    [
        ("", 0.9, "test accuracy 50.00 %"),
        ("checkpoint: {monitor: loss}", 0.25, "test loss 0.5000"),
        ("checkpoint: {monitor: loss, mode: max}", 2.0, "test loss 0.5000"),
        ("checkpoint: {monitor: loss, split: test}", 0.5, "test loss 0.5000"),
        ("checkpoint: {monitor: rmse}", None, "test rmse not finite"),
        ("checkpoint: {monitor: r2}", -3.0, "test r2 -1.0000"),
        ("checkpoint: {monitor: gone}", None, "test gone not finite"),
        ("task: 'own.py:Task'", 0.25, "test loss 0.5000"),
        ("checkpoint: 3", 0.9, "test accuracy 50.00 %"),
        ("{", 0.9, "test accuracy 50.00 %"),
    ],
)
def test_the_score_is_by_the_number_and_the_split_that_are_monitored(
    settings: str, score: float | None, shown: str
) -> None:
    path = leave_run("runs/a")
    RunDir(path).config.write_text(settings)
    values = [("validation", 2.0, 0.8, -7), ("validation", None, 0.9, -3), ("validation", 0.25, 0.7, -5)]
    with RunDir(path).metrics.open("a") as file:
        for split, loss, accuracy, r2 in (*values, ("test", 0.5, 0.5, -1)):
            line = {**evaluation(accuracy, split), "loss": loss, "rmse": None, "r2": r2}
            file.write(json.dumps(line) + "\n")
    run = snapshot.read_run(path)
    assert run.score == score
    assert f"({shown})" in summarize_run(run)


def test_the_best_trial_of_a_sweep_comes_first() -> None:
    """The smallest loss; those without a score are the last."""
    sweep = leave_sweep("runs/s.sweep", 0.1, 0.2, 0.3, 0.4)
    for number, loss in enumerate((0.5, None, 0.25, 0.75)):
        path = leave_run(sweep / f"{number}-lr")
        RunDir(path).config.write_text("task: regression\n")
        line = {**evaluation(0.0), "loss": loss}
        del line["accuracy"]
        with RunDir(path).metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
    ranked = snapshot.rank_trials(sweep)
    assert [trial.number for trial, _ in ranked] == [2, 0, 3, 1]
    assert "0.2500" in format_trials(ranked).splitlines()[1]


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
