"""A sweep as a job array on a real Slurm, with `status`, `logs` and `cancel` for its tasks."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dist_train.diagnostics.heartbeat import read_heartbeats
from tests.conftest import ROOT
from tests.ranks.failures.killed import assert_same_bits
from tests.slurm.cluster import Cluster
from tests.slurm.training import Training

SWEEP = ("sweep", "small.yaml", "log.every_steps=1,2", "run.dir=run", "--slurm", "--profile=./pausing.yaml", "--time=5")


def lines_with(done: "subprocess.CompletedProcess[str]", word: str) -> int:
    return sum(word in line.split() for line in done.stdout.splitlines())


def test_trials_of_a_sweep_are_stopped_and_go_on(
    cluster: Cluster, here: Path, undisturbed: Callable[[int], Path]
) -> None:
    training = Training(cluster, here, pause=0.2)
    (here / "pausing.yaml").write_text(f"gpus_per_node: 0\npython: {training.python}\n")
    trials = [here / "run.sweep" / f"{number}-every_steps={number + 1}" for number in (0, 1)]

    def dist_train(*arguments: str) -> "subprocess.CompletedProcess[str]":
        variables = {"PYTHONPATH": str(ROOT), "DIST_TRAIN_TEST_SLEEP": str(here / "pause")}
        return cluster.run(sys.executable, "-m", "launch", *arguments, cwd=here, env=variables)

    def step(trial: Path) -> int:
        return max((beat.step for beat in read_heartbeats(trial / "diagnostics").values()), default=0)

    started = dist_train(*SWEEP)
    assert started.returncode == 0, started.stderr
    job = json.loads((here / "run.sweep" / "jobs" / "1" / "job.json").read_text())["job_id"]
    cluster.wait_for(lambda: min(map(step, trials)) > 2, f"{job}_1")
    assert dist_train(*SWEEP).returncode == 2  # one array at a time
    assert lines_with(dist_train("status", "run.sweep"), "running") == 2

    # The last task of an array has the id of the whole array; only this task must be requeued.
    cluster.slurm("scancel", "--signal=USR2", f"{job}_1")
    cluster.wait(f"{job}_1", "PENDING")
    assert cluster.job(f"{job}_0")["JobState"] == "RUNNING"
    assert "stopped by SIGUSR2" in dist_train("logs", str(trials[1])).stdout

    cancelled = dist_train("cancel", "run.sweep", "--wait")
    assert cancelled.returncode == 0, cancelled.stderr
    assert "running" not in dist_train("status", "run.sweep").stdout

    training.pause(0)
    assert dist_train(*SWEEP).returncode == 0
    again = json.loads((here / "run.sweep" / "jobs" / "2" / "job.json").read_text())["job_id"]
    for number, trial in enumerate(trials):
        cluster.wait(f"{again}_{number}", "COMPLETED")
        assert_same_bits(trial, undisturbed(1))
    assert lines_with(dist_train("status", "run.sweep"), "done") == 2
    assert "0 to be submitted" in dist_train(*SWEEP).stdout
