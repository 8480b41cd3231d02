"""Real sweeps on this machine: parallel trials, a failure, a stop and a resume."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dist_train.run_dir import RunDir
from tests.conftest import ROOT, Python
from tests.ranks.runs.test_watching import wait_until
from tests.unit.launch.sweeps.sweep_files import CONFIG, sweep_of


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a small file of settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


@pytest.mark.slow
def test_a_trial_that_fails_ends_no_other(workdir: Path, python: Python) -> None:
    command = ("-m", "launch", "sweep", "small.yaml", "optim.lr=0.05,1e30,0.1", "train.max_steps=20", "--nproc", "1")
    first = python(*command, "--max-parallel", "2", cwd=workdir)
    assert first.returncode == 1, first.stderr
    for output in ("trial 1: failed with exit code 4", "the loss of step", "trial 0: done", "trial 2: done"):
        assert output in first.stdout
    assert first.stdout.splitlines()[-1].split()[0] == "1", "the trial without a score is the last in the table"
    sweep = sweep_of("optim.lr=0.05,1e30,0.1", "train.max_steps=20")
    assert [trial.number for trial in sweep.find_unfinished()] == [1]
    assert (sweep.trials[0].path / "logs" / "rank_0.log").exists()
    again = python(*command, cwd=workdir)
    assert again.returncode == 1
    assert "3 trials, 1 to be trained" in again.stdout
    assert "trial 0: started" not in again.stdout


@pytest.mark.slow
def test_a_cancelled_sweep_stops_as_a_whole_and_resumes(workdir: Path, python: Python) -> None:
    sweep = sweep_of("optim.lr=0.05,0.1,0.2", "train.epochs=30")
    command = [sys.executable, "-m", "launch", "sweep", "small.yaml", "optim.lr=0.05,0.1,0.2", "train.epochs=30"]
    options = ["--nproc", "2", "--max-parallel", "2"]
    with (workdir / "output").open("w") as output:
        process = subprocess.Popen(
            [*command, *options], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: all(step_of(trial.path) > 2 for trial in sweep.trials[:2]))
        cancelled = python("-m", "launch", "cancel", str(sweep.directory), "--wait", cwd=workdir)
        assert process.wait(60) == 75, (workdir / "output").read_text()
    finally:
        process.kill()
        process.wait()
    assert cancelled.returncode == 0, cancelled.stderr
    assert "is asked to start no more trials" in cancelled.stdout
    text = (workdir / "output").read_text()
    assert text.count("stopped, resumable") == 2
    assert "trial 2: started" not in text
    stopped = [step_of(trial.path) for trial in sweep.trials]
    done = python(*command[1:], *options, "--nproc", "1", cwd=workdir)
    assert done.returncode == 0, done.stderr
    assert sweep.find_unfinished() == []
    for trial, step in zip(sweep.trials, stopped, strict=True):
        assert (RunDir(trial.path).read_status() or {})["started_step"] == step


def step_of(run: Path) -> int:
    """Return the finished steps of a run by its status; 0 without a status."""
    status = RunDir(run).read_status()
    return int(status["step"]) if status else 0
