"""Watchdogs of real processes, without torch: ranks that end when a peer fails, and that end a peer that can't run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dist_train.diagnostics.failure import read_failures
from dist_train.diagnostics.verdict import read_verdict
from tests.conftest import ROOT

Process = subprocess.Popen[str]
Start = Callable[..., Process]
STALL = 0.02  # minutes


@pytest.fixture
def start(run: Path) -> Iterator[Start]:
    """Start a rank of tests/programs/recorded.py, and wait until it has begun."""
    processes: list[Process] = []

    def begin(rank: int, size: int, action: str, stall_minutes: float = STALL) -> Process:
        arguments = [str(run), str(rank), str(size), str(stall_minutes), action]
        process = subprocess.Popen(
            [sys.executable, "tests/programs/recorded.py", *arguments], cwd=ROOT, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(process: Process) -> tuple[int, str]:
    """The exit code of a process and what it has printed."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_rank_ends_when_its_peer_has_failed(run: Path, start: Start) -> None:
    waiting = start(0, 2, "wait", 10)
    code, errors = wait_for(start(1, 2, "raise", 10))
    assert code == 1
    assert "first failed   rank 1(2)" in errors
    assert wait_for(waiting) == (1, "")
    assert read_failures(run / "diagnostics", 1)[0].kind == "victim"


def test_a_rank_ends_by_itself_when_its_peer_was_killed(run: Path, start: Start) -> None:
    waiting, killed = start(0, 2, "wait", 10), start(1, 2, "wait", 10)
    killed.kill()
    killed.wait()
    code, errors = wait_for(waiting)
    assert code == 1
    assert errors.count("first failed   rank 1(2)") == 1
    verdict = read_verdict(run)
    assert verdict is not None
    assert (verdict.cause, verdict.phase, verdict.step) == ("killed", "backward", 7)


@pytest.mark.parametrize("action", ["hold", "stop"])
def test_a_rank_that_cannot_run_is_found_and_killed_by_its_peers(run: Path, start: Start, action: str) -> None:
    waiting = [start(rank, 3, "wait") for rank in (0, 2)]
    if action == "stop":
        stuck = start(1, 3, "work")
        os.kill(stuck.pid, signal.SIGSTOP)
    else:
        stuck = start(1, 3, "hold")
    ends = [wait_for(process) for process in waiting]
    assert [code for code, _ in ends] == [1, 1]
    assert "".join(errors for _, errors in ends).count("first failed   rank 1(3)") == 1
    assert wait_for(stuck)[0] == -signal.SIGKILL
    stacks = [(run / "diagnostics" / f"stacks_rank_{rank}.txt").read_text() for rank in range(3)]
    assert all("recorded.py" in stacks[rank] for rank in (0, 2))
    assert "cannot run Python" in stacks[1]
    assert ("in act" in stacks[1]) == (action == "hold")


def test_a_run_that_was_stopped_as_a_whole_continues(run: Path, start: Start) -> None:
    working = start(0, 1, "work")
    os.kill(working.pid, signal.SIGSTOP)
    time.sleep(2 * 60 * STALL)
    os.kill(working.pid, signal.SIGCONT)
    time.sleep(0.5)
    assert working.poll() is None
    working.communicate("enough\n", timeout=60)
    assert working.returncode == 0
    assert read_verdict(run) is None
