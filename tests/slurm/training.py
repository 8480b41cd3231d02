"""A training as a Slurm job, slowed down so that a test can hit it at a chosen step."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.run_dir import RunDir, write_atomically
from launch.runs.history import JobStart, read_starts
from tests.conftest import ROOT
from tests.ranks.failures.killed import ON_MACHINES, newest
from tests.slurm.cluster import Cluster

SCRIPT = ROOT / "slurm" / "train.sbatch"
# The Python of the jobs: it pauses between training steps.
PYTHON = f"""#!/usr/bin/env bash
arguments=()
for each; do
  [[ $each != dist_train ]] || each=tests.programs.slowly
  arguments+=("$each")
done
exec {sys.executable} "${{arguments[@]}}"
"""
EVERY = 4
"""Steps between two checkpoints."""


class Training:
    """A job that trains the settings of `tests.ranks.failures.killed` in `directory/run`."""

    def __init__(self, cluster: Cluster, directory: Path, pause: float = 0) -> None:
        """`pause`: seconds between two steps."""
        directory.mkdir(exist_ok=True)
        self.cluster, self.directory, self.run = cluster, directory, directory / "run"
        self.config, self.python, self._pause = (directory / name for name in ("small.yaml", "python", "pause"))
        self.config.write_text(ON_MACHINES)
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)
        self.pause(pause)
        self.job = ""

    def pause(self, seconds: float) -> None:
        """Set the pause between two steps."""
        write_atomically(self._pause, str(seconds))

    def submit(self, *flags: str, settings: tuple[str, ...] = (), **variables: str) -> None:
        """Submit the script with flags of sbatch and `DIST_TRAIN_` variables."""
        self.job = self.cluster.submit(
            "--cpus-per-task=2",
            "--output=slurm-%j.out",
            *flags,
            str(SCRIPT),
            str(self.config),
            *(settings or (f"run.dir={self.run}",)),
            cwd=self.directory,
            env={
                "PYTHONPATH": str(ROOT),
                "DIST_TRAIN_PYTHON": str(self.python),
                "DIST_TRAIN_TEST_SLEEP": str(self._pause),
                "DIST_TRAIN_NPROC_PER_NODE": "1",
                **{f"DIST_TRAIN_{name.upper()}": value for name, value in variables.items()},
            },
        )

    def step(self) -> int:
        """Return the number of steps that the furthest rank has finished."""
        beats = read_heartbeats(self.run / "diagnostics").values()
        return max((beat.step for beat in beats if beat.phase != "start"), default=0)

    def wait_for_step(self, step: int) -> None:
        """Wait until the training has reached a step."""
        self.cluster.wait_for(lambda: self.step() >= step, self.job)

    def starts(self) -> list[JobStart]:
        """Return the starts of the job, the oldest first."""
        return [start for start in read_starts(RunDir(self.run)) if start.job_id == self.job]

    def finish(self, timeout: float = 120) -> None:
        """Wait until the job is completed and the run is done."""
        self.cluster.wait(self.job, "COMPLETED", timeout=timeout)
        assert self.status()["state"] == "done", self.cluster.report(self.job)

    def status(self) -> dict[str, Any]:
        """Return the content of `status.json`."""
        return RunDir(self.run).read_status() or {}

    def kill_rank(self, rank: int) -> None:
        """Send SIGKILL to a rank."""
        for pid in self._processes(f"RANK={rank}"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def newest(self) -> int:
        """Return the step of the newest checkpoint."""
        return newest(self.run)

    def _processes(self, variable: str) -> list[int]:
        """Return the processes of the job, on any node, that have an environment variable."""
        marks = {variable.encode(), f"SLURM_JOB_ID={self.job}".encode(), f"SLURM_CONF={self.cluster.conf}".encode()}
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if marks <= set((place / "environ").read_bytes().split(b"\0")):
                    found.append(int(place.name))
        return found
