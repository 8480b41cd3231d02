"""A real Slurm cluster on this machine, started by the scripts next to this file."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.conftest import ROOT

HERE = Path(__file__).parent
STATE = Path("/var/tmp")  # noqa: S108 (each node has its own /tmp)
NO_CLUSTER = 77
NODES = ("n1", "n2", "n3", "n4")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
POLL = 0.1  # seconds


class CannotHaveCluster(Exception):  # noqa: N818 (nothing went wrong)
    """No cluster can be started on this machine; the message says why."""


class Cluster:
    """Four nodes `n1` to `n4` of four CPUs, partitions `debug` and, lower in rank, `preempt`; a context manager."""

    def __init__(self, name: str, **settings: str) -> None:
        """`settings`: variables of `lib.sh`. Clusters with different names run in parallel."""
        self.state = STATE / f"slurm-test-{os.getpid()}-{name}"
        self.work = self.state / "work"
        """A directory that all nodes see."""
        self.conf = self.state / "slurm.conf"
        self._settings = {"SLT_RUN": str(self.state), **settings}

    def __enter__(self) -> "Cluster":
        """Start the cluster; raises CannotHaveCluster if this machine can't run one."""
        _remove_orphans()
        done = self._script("up.sh")
        if done.returncode:
            self._script("down.sh")
            error = CannotHaveCluster if done.returncode == NO_CLUSTER else RuntimeError
            raise error(done.stderr.strip())
        self.work.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self._script("down.sh")

    def run(
        self, *command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on the login node."""
        return self._script("in.sh", *command, cwd=cwd, env=env, timeout=timeout)

    def slurm(self, *command: str) -> str:
        """Run a command of Slurm, which must succeed, and return its output."""
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}\n{self._log()}"
        return done.stdout.strip()

    def submit(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """Run `sbatch` and return the id of the job."""
        done = self.run("sbatch", "--parsable", *arguments, cwd=cwd, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """Return the fields of `scontrol show job` of a job or of a task of an array (`12_3`)."""
        return dict(re.findall(r"(\w+)=(\S*)", self.slurm("scontrol", "--oneliner", "show", "job", job)))

    def wait(self, job: str, *states: str, timeout: float = 120) -> dict[str, str]:
        """Wait until the job is in one of these states; fail if it ends in another one."""
        self.wait_for(lambda: self.job(job)["JobState"] in (*states, *OVER), job, timeout)
        found = self.job(job)
        assert found["JobState"] in states, f"not {' or '.join(states)}\n{self.report(job)}"
        return found

    def wait_for(self, condition: Callable[[], object], job: str, timeout: float = 60) -> None:
        """Wait for a condition; fail with a report if the job ends before."""
        deadline = time.monotonic() + timeout
        while True:
            is_over = self.job(job)["JobState"] in OVER
            if condition():
                return
            assert not is_over, f"over too soon\n{self.report(job)}"
            assert time.monotonic() < deadline, f"still not after {timeout:.0f} s\n{self.report(job)}"
            time.sleep(POLL)

    def output(self, job: str) -> str:
        """Return the output of the job so far."""
        path = Path(self.job(job)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def report(self, job: str) -> str:
        """Return the state, the output and the log of the controller, for a failed test."""
        return f"{self.slurm('scontrol', 'show', 'job', job)}\n--- output:\n{self.output(job)}\n{self._log()}"

    def crash(self, node: str) -> None:
        """Kill everything on a node, like a power cut."""
        self._node("crash", node)

    def start(self, node: str) -> None:
        """Start a node that is off."""
        self._node("start", node)

    def clear(self) -> None:
        """End all jobs and start all nodes."""
        for node in NODES:
            self.start(node)
        self.slurm("scancel", "--full", "--user=root")
        deadline = time.monotonic() + 30
        while left := self.slurm("squeue", "--noheader"):
            assert time.monotonic() < deadline, left
            time.sleep(POLL)

    def _node(self, what: str, node: str) -> None:
        done = self._script("node.sh", what, node)
        assert done.returncode == 0, done.stderr

    def _log(self) -> str:
        log = self.state / "log" / "slurmctld.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join(["--- slurmctld:", *lines[-12:]])

    def _script(
        self, name: str, *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(HERE / name), *arguments],
            cwd=cwd,
            env={**os.environ, **self._settings, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def _remove_orphans() -> None:
    """Stop the clusters of test runs that were killed."""
    for state in STATE.glob("slurm-test-*-*"):
        owner = state.name.split("-")[2]
        if not Path(f"/proc/{owner}").exists():
            subprocess.run([str(HERE / "down.sh")], env={**os.environ, "SLT_RUN": str(state)}, check=True)
