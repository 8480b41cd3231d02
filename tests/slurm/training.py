"""A training that runs as a job, at a pace at which it can be hit where a test wants, and how it is judged."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.run_dir import RunDir, write_whole
from launch.runs.history import JobStart, read_starts
from tests.conftest import ROOT
from tests.ranks.killed import ON_MACHINES, newest
from tests.slurm.cluster import Cluster

SCRIPT = ROOT / "slurm" / "train.sbatch"
# The jobs' Python: it pauses between the steps of a training.
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
    """The settings of `tests.ranks.killed`, trained by a job in `directory/run`."""

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
        """Let it pause for so long between two steps."""
        write_whole(self._pause, str(seconds))

    def submit(self, *flags: str, settings: tuple[str, ...] = (), **variables: str) -> None:
        """Submit the script by hand, with flags for sbatch and `DIST_TRAIN_` variables."""
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
        """Steps that the furthest rank of this job has finished, as its last sign of life says."""
        beats = read_heartbeats(self.run / "diagnostics").values()
        return max((beat.step for beat in beats if beat.phase != "start"), default=0)

    def wait_for_step(self, step: int) -> None:
        """Wait until the training has got there."""
        self.cluster.wait_for(lambda: self.step() >= step, self.job)

    def starts(self) -> list[JobStart]:
        """The starts of the job, the first one first."""
        return [start for start in read_starts(RunDir(self.run)) if start.job_id == self.job]

    def finish(self, timeout: float = 120) -> None:
        """Wait for the end of the job, and of the training."""
        self.cluster.wait(self.job, "COMPLETED", timeout=timeout)
        assert self.status()["state"] == "done", self.cluster.story(self.job)

    def status(self) -> dict[str, Any]:
        """What `status.json` says."""
        return RunDir(self.run).read_status() or {}

    def kill_rank(self, rank: int) -> None:
        """SIGKILL, as by the kernel for want of memory."""
        for pid in self._processes(f"RANK={rank}"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def newest(self) -> int:
        """Step of the newest checkpoint."""
        return newest(self.run)

    def _processes(self, variable: str) -> list[int]:
        """Processes of the job, on whatever node, that have a variable of this value."""
        marks = {variable.encode(), f"SLURM_JOB_ID={self.job}".encode(), f"SLURM_CONF={self.cluster.conf}".encode()}
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if marks <= set((place / "environ").read_bytes().split(b"\0")):
                    found.append(int(place.name))
        return found
