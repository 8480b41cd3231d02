"""Since when a run makes no progress."""

import fcntl
import json
import os
import socket
import struct
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dist_train.diagnostics.heartbeat import HeartbeatFile, RankProcess
from dist_train.distributed.world import World
from dist_train.run_dir import RunDir
from tests.unit.launch.command import run_command
from tests.unit.launch.run_files import leave_run, metrics

pytestmark = pytest.mark.usefixtures("runs_dir")


def leave_running(ago: float, rate: float = 1280.0, host: str | None = None, apart: float = 1.0) -> Path:
    """Write a run whose last heartbeat, line of metrics and status are `ago` seconds old; a batch has 64 samples."""
    then = time.time() - ago
    updated = datetime.fromtimestamp(then, UTC).isoformat()
    name = host or socket.gethostname()
    run = leave_run("runs/a", "running", host=name, pid=os.getpid(), updated=updated, total_steps=10**6)
    lines = [{**metrics(8), "time": then - apart, "samples_per_second": rate}, {**metrics(9), "time": then}]
    lines[1]["samples_per_second"] = rate
    RunDir(run).metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if host is None:
        process = RankProcess.current(World(), 1, "")
        beats = HeartbeatFile(RunDir(run).diagnostics, process)
        beats.mark("backward", 9)
        beats.close()
        path = RunDir(run).diagnostics / "rank_0.beat"
        content = bytearray(path.read_bytes())
        struct.pack_into("<d", content, 16, then)
        path.write_bytes(content)
    return run


@pytest.mark.parametrize(
    ("ago", "rate", "is_idle"),
    [(3, 1280.0, False), (9, 1280.0, False), (12, 1280.0, True), (12, 6.4, False), (49, 6.4, False), (52, 6.4, True)],
)
def test_a_run_is_idle_after_ten_seconds_and_five_steps(
    capsys: pytest.CaptureFixture[str], ago: float, rate: float, is_idle: bool
) -> None:
    """At 6.4 samples per second a step of 64 takes 10 seconds."""
    run = leave_running(ago, rate)
    with RunDir(run).lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, output = run_command(capsys, "status", "runs/a")
        table = run_command(capsys, "status")[1]
    assert code == 0
    assert ("no progress for 0:00:" in output, ", in backward" in output) == (is_idle, is_idle)
    assert ("ETA" in output) != is_idle
    assert ("no progress for" in table) == is_idle


@pytest.mark.parametrize(("ago", "is_idle"), [(100, False), (200, False), (230, True)])
def test_elsewhere_only_the_lines_of_metrics_count(
    capsys: pytest.CaptureFixture[str], ago: float, is_idle: bool
) -> None:
    """Those are 100 seconds apart."""
    leave_running(ago, host="elsewhere", apart=100)
    assert ("no progress for" in run_command(capsys, "status", "runs/a")[1]) == is_idle


def test_a_run_that_has_ended_is_not_idle(capsys: pytest.CaptureFixture[str]) -> None:
    leave_run("runs/a", "done", updated="2020-01-01T00:00:00+00:00")
    assert "no progress" not in run_command(capsys, "status", "runs/a")[1]
