"""Ranks that end each other: real processes, without torch."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dist_train.diagnostics.failure import read_failures
from dist_train.diagnostics.root_cause import read_verdict
from tests.conftest import ROOT

Start = Callable[..., "subprocess.Popen[str]"]


STALL = 0.02  # minutes


@pytest.fixture
def start(run: Path) -> Iterator[Start]:
    """Start a rank of tests/programs/recorded.py, and wait until it has begun."""
    started: list[subprocess.Popen[str]] = []

    def begin(rank: int, size: int, deed: str, stall_minutes: float = STALL) -> "subprocess.Popen[str]":
        script = [
            sys.executable,
            "tests/programs/recorded.py",
            str(run),
            str(rank),
            str(size),
            str(stall_minutes),
            deed,
        ]
        process = subprocess.Popen(
            script, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_a_rank_ends_when_its_peer_has_failed(run: Path, start: Start) -> None:
    waiting = start(0, 2, "wait", 10)
    code, said = end(start(1, 2, "raise", 10))
    assert code == 1
    assert "first failed   rank 1(2)" in said
    assert end(waiting) == (1, "")
    assert read_failures(run / "diagnostics", 1)[0].kind == "victim"


def test_a_rank_ends_by_itself_when_its_peer_was_killed(run: Path, start: Start) -> None:
    waiting, killed = start(0, 2, "wait", 10), start(1, 2, "wait", 10)
    killed.kill()
    code, said = end(waiting)
    assert code == 1
    assert said.count("first failed   rank 1(2)") == 1
    found = read_verdict(run)
    assert found is not None
    assert (found.cause, found.phase, found.step) == ("killed", "backward", 7)


@pytest.mark.parametrize("deed", ["hold", "stop"])
def test_a_rank_that_cannot_run_is_judged_and_ended_by_its_peers(run: Path, start: Start, deed: str) -> None:
    waiting = [start(rank, 3, "wait") for rank in (0, 2)]
    if deed == "stop":
        stuck = start(1, 3, "work")
        os.kill(stuck.pid, signal.SIGSTOP)
    else:
        stuck = start(1, 3, "hold")
    ends = [end(process) for process in waiting]
    assert [code for code, _ in ends] == [1, 1]
    assert "".join(said for _, said in ends).count("first failed   rank 1(3)") == 1
    assert end(stuck)[0] == -signal.SIGKILL
    stacks = [(run / "diagnostics" / f"stacks_rank_{rank}.txt").read_text() for rank in range(3)]
    assert all("recorded.py" in stacks[rank] for rank in (0, 2))
    assert "cannot run Python" in stacks[1]
    assert ("in _do" in stacks[1]) == (deed == "hold")


def test_a_run_that_was_stopped_as_a_whole_goes_on(run: Path, start: Start) -> None:
    working = start(0, 1, "work")
    os.kill(working.pid, signal.SIGSTOP)
    time.sleep(2 * 60 * STALL)
    os.kill(working.pid, signal.SIGCONT)
    time.sleep(0.5)
    assert working.poll() is None
    working.communicate("enough\n", timeout=60)
    assert working.returncode == 0
    assert read_verdict(run) is None
