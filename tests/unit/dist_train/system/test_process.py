"""Processes that end with their parent, even if it is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dist_train.system.process import die_with_parent, read_process_stat, read_process_state, signal_process
from tests.conftest import ROOT

FAMILY = """
import os, sys, time
from dist_train.system.process import die_with_parent, read_process_stat, read_process_state, signal_process
parent = os.getpid()
child = os.fork()
if child == 0:
    die_with_parent(parent)
    print(os.getpid(), flush=True)
    time.sleep(60)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process whose parent has ended")
def test_a_child_ends_with_its_killed_parent() -> None:
    command, environment = [sys.executable, "-c", FAMILY], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_whose_parent_has_gone_ends_at_once() -> None:
    with pytest.raises(SystemExit):
        die_with_parent(os.getpid())


class TestSignals:
    def test_a_process_that_is_the_right_one_gets_it(self) -> None:
        with subprocess.Popen(["sleep", "60"]) as process:
            stat = read_process_stat(process.pid)
            assert stat is not None
            assert signal_process(process.pid, signal.SIGTERM, lambda: read_process_state(process.pid, stat[1]) != "X")
        assert process.returncode == -signal.SIGTERM

    def test_another_process_with_its_number_does_not(self) -> None:
        with subprocess.Popen(["sleep", "60"]) as process:
            started = read_process_stat(process.pid)
            assert started is not None
            assert not signal_process(
                process.pid, signal.SIGKILL, lambda: read_process_state(process.pid, started[1] - 1) != "X"
            )
            assert process.poll() is None
            process.kill()

    @pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1, 2**31 - 1, 2**31, 2**64, -(2**64)])
    def test_a_number_of_no_process_reaches_nobody(self, pid: int) -> None:
        """os.kill would signal a whole group for the first two."""
        assert not signal_process(pid, signal.SIGKILL, lambda: True)


def test_signals_are_sent_to_checked_processes_only() -> None:
    """Elsewhere a process signals its own children, which it has not waited for, or itself."""
    calls = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("dist_train", "launch")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"os\.kill(pg)?\(|pidfd_send_signal\(", line)
    ]
    assert sorted(calls) == [
        "dist_train/elastic/forking_agent.py: os.kill(pid, number)",
        "dist_train/system/process.py: os.kill(pid, 0)",
        "dist_train/system/process.py: signal.pidfd_send_signal(descriptor, number)",
        "launch/local/process_pool.py: os.killpg(self._process.pid, signal.SIGKILL)",
    ]
