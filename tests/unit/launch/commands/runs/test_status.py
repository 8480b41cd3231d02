"""`dist-train status` on the files that runs leave, without Slurm."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from dist_train.run_dir import RunDir
from tests.unit.launch.command import run_command
from tests.unit.launch.run_files import leave_job, leave_run, leave_sweep

pytestmark = pytest.mark.usefixtures("runs_dir")


@pytest.mark.parametrize(
    ("state", "more", "message"),
    [
        ("running", {}, "running at step 8 of 10 (1,280 samples/s, ETA 0:00:00)"),
        ("running", {"total_steps": 200_008}, "ETA 2:46:40)"),
        ("done", {}, "done at step 8 of 10 (test accuracy 97.25 %)"),
        ("preempted", {}, "preempted at step 8 of 10, resumable"),
        ("failed", {"resumable": False}, "failed at step 8 of 10\n"),
        ("failed", {}, "dist-train postmortem runs/a"),
        ("running", {"restarts": 2}, "restarts   2 in place"),
        ("running", {"host": socket.gethostname()}, "dead at step 8 of 10: ended without writing its status"),
        ("preempted", {"total_steps": None}, "preempted at step 8, resumable"),
    ],
)
def test_a_run(capsys: pytest.CaptureFixture[str], state: str, more: dict[str, Any], message: str) -> None:
    leave_run("runs/a", state, accuracy=0.9725, **more)
    code, output = run_command(capsys, "status", "runs/a")
    assert code == 0
    assert output.startswith("runs/a: ")
    assert message in output


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    leave_run("runs/a", "running", accuracy=0.5)
    code, output = run_command(capsys, "status", "runs/a", "--json")
    found = json.loads(output)
    assert (code, found["state"], found["step"], found["total_steps"]) == (0, "running", 8, 10)
    assert (found["samples_per_second"], found["seconds_left"], found["score"]) == (1280.0, 0.1, 0.5)
    assert found["evaluation"]["split"] == "test"
    assert "per_class" not in found["evaluation"]
    leave_run("runs/b")
    assert [run["run"] for run in json.loads(run_command(capsys, "status", "--json")[1])] == ["runs/a", "runs/b"]


def test_all_runs_the_newest_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(capsys, "status") == (0, "no runs in runs/\n")
    leave_run("runs/old", updated="2029-01-01T10:00:00+00:00")
    leave_run("runs/new", "running", accuracy=0.5)
    leave_run(leave_sweep("runs/x.sweep", 0.1) / "0-lr", updated="2028-01-01T10:00:00+00:00")
    Path("runs/none").mkdir()
    code, output = run_command(capsys, "status")
    rows = output.splitlines()
    assert code == 0
    assert rows[0].split() == ["RUN", "STATE", "STEP", "SAMPLES/S", "ETA", "SCORE", "UPDATED"]
    assert [row.split()[0] for row in rows[1:]] == ["runs/new", "runs/old", "runs/x.sweep/0-lr"]
    assert rows[1].split()[1:7] == ["running", "8", "of", "10", "1,280", "0:00:00"]


def test_a_sweep_by_its_scores(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = leave_sweep("runs/x.sweep", 0.1, 0.2, 0.3, 0.4)
    leave_run(sweep / "0-lr", accuracy=0.8)
    leave_run(sweep / "1-lr", "failed")
    leave_run(sweep / "2-lr", "running", accuracy=0.9)
    code, output = run_command(capsys, "status", sweep)
    rows = [row.split() for row in output.splitlines()]
    assert code == 0
    assert rows[0] == ["TRIAL", "SETTINGS", "STATE", "STEP", "SCORE", "RUN"]
    assert [row[0] for row in rows[1:]] == ["2", "0", "1", "3"]
    assert rows[1][1:] == ["optim.lr=0.3", "running", "8", "of", "10", "90.00", "%", "runs/x.sweep/2-lr"]
    assert rows[4] == ["3", "optim.lr=0.4", "not", "begun", "runs/x.sweep/3-lr"]
    trials = json.loads(run_command(capsys, "status", sweep, "--json")[1])["trials"]
    assert [(trial["number"], trial["score"]) for trial in trials] == [(2, 0.9), (0, 0.8), (1, None), (3, None)]
    (sweep / "sweep.json").write_text("{}")
    code, output = run_command(capsys, "status", sweep)
    assert (code, "is damaged" in output) == (2, True)


@pytest.mark.parametrize("what", ["runs/none", "nothing", "runs"])
def test_what_is_no_run_is_refused(capsys: pytest.CaptureFixture[str], what: str) -> None:
    Path("runs/none").mkdir()
    for command in ("status", "logs", "cancel"):
        code, output = run_command(capsys, command, what)
        assert (code, f"{what}: is not a run" in output) == (2, True)


def test_a_name_is_told_from_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    leave_run("runs/a")
    assert "Did you mean runs/a?" in run_command(capsys, "status", "a")[1]


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"state": 3, "step": 4}', '{"state": "done", "step": "x"}'])
def test_a_damaged_status_is_none(capsys: pytest.CaptureFixture[str], damaged: str) -> None:
    RunDir(leave_run("runs/a")).status.write_text(damaged)
    code, output = run_command(capsys, "status", "runs/a")
    assert (code, "unknown at step 8: its status.json can't be read" in output) == (0, True)


def test_a_job_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for job in ("99", "99_1"):
        code, output = run_command(capsys, "status", job)
        assert (code, f"job {job}: no run in runs/ belongs to it, and there is no Slurm on this machine" in output) == (
            2,
            True,
        )


def test_a_submitted_job_of_which_nothing_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    leave_job(Path("runs/a"), 1, "11")
    code, output = run_command(capsys, "status", "runs/a")
    assert (code, "unknown at step 0: it has a job, and Slurm is not available here" in output) == (0, True)
