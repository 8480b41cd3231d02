"""Cancel runs and sweeps without Slurm."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dist_train.system.process import read_process_stat
from launch.runs import cancel, snapshot
from tests.unit.launch.command import run_command
from tests.unit.launch.run_files import leave_run, leave_sweep

pytestmark = pytest.mark.usefixtures("runs_dir")


@pytest.mark.parametrize("state", ["done", "preempted", "failed"])
def test_a_run_that_is_over(capsys: pytest.CaptureFixture[str], state: str) -> None:
    code, output = run_command(capsys, "cancel", leave_run("runs/a", state), "--wait")
    assert (code, f"runs/a: has ended: {state} at step 8" in output) == (0, True)


def test_a_run_that_is_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run_command(capsys, "cancel", leave_run("runs/a", "running"))
    assert (code, "runs on host elsewhere" in output, "run this command there" in output) == (2, True, True)
    code, output = run_command(capsys, "cancel", leave_run("runs/b", "running", job_id="12"))
    assert (code, "`scancel 12` on a login node" in output) == (2, True)


def test_a_sweep_that_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = leave_sweep("runs/x.sweep", 0.1, 0.2)
    leave_run(sweep / "0-lr")
    assert run_command(capsys, "cancel", sweep) == (0, "runs/x.sweep: no trial is queued or running\n")


def test_only_the_very_launcher_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    """A process that has reused the pid of the launcher is left alone."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dist_train"]) as process:
        stat = read_process_stat(process.pid)
        assert stat is not None
        launcher = f"a run {socket.gethostname()} {process.pid}"
        here = socket.gethostname()
        leave_run("runs/other", "failed", host=here, launcher=f"{launcher} {stat[1] + 1}")
        code, output = run_command(capsys, "cancel", "runs/other")
        assert (code, "has ended: failed" in output, process.poll()) == (0, True, None)
        leave_run("runs/it", "failed", host=here, launcher=f"{launcher} {stat[1]}")
        assert snapshot.read_run(Path("runs/it")).state == "ending"
        code, output = run_command(capsys, "cancel", "runs/it")
        assert (code, f"process {process.pid} is asked to stop" in output) == (0, True), output
        assert process.wait(30) == -signal.SIGTERM


@pytest.mark.parametrize("state", ["exec", "zombie"])
def test_a_process_without_a_command_line(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """One that has just replaced its program has none for a moment; one that has exited has none any more."""
    read, reads = Path.read_bytes, [b""]

    def read_none_first(path: Path) -> bytes:
        return reads.pop() if reads and path.name == "cmdline" else read(path)

    monkeypatch.setattr(Path, "read_bytes", read_none_first)
    code = "import time; time.sleep(60)" if state == "exec" else ""
    with subprocess.Popen([sys.executable, "-c", code, "dist_train"]) as process:
        if state == "zombie":
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        cancel._stop_process(process.pid, Path("runs/it"), lambda: True)
        assert process.wait(30) == (-signal.SIGTERM if state == "exec" else 0)
