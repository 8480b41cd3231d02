"""Which rank failed first, from what the ranks have left."""

import os
from pathlib import Path

import pytest

from dist_train.diagnostics.failure import Kind
from dist_train.diagnostics.root_cause import RunEvidence, find_known_failure, find_root_cause, find_stalled_rank
from tests.unit.dist_train.diagnostics.run_files import (
    NO_PID,
    heartbeat,
    write_failure,
    write_heartbeats,
    write_stacks,
)

CLOSED = "RuntimeError: Connection closed by peer"
IN_TORCH = "/x/torch/autograd/graph.py"


@pytest.mark.usefixtures("no_patience")
def test_the_earliest_failure_of_its_own_is_the_first(run: Path) -> None:
    ranks = [heartbeat(rank, 4) for rank in range(4)]
    write_heartbeats(run, *ranks)
    victim = write_failure(run, ranks[0], "victim", CLOSED, seconds_ago=9)
    write_failure(run, ranks[1], "exception", "ValueError: later", seconds_ago=1)
    write_failure(run, ranks[2], "loader", "x.png: can't be read", seconds_ago=5)
    found = find_root_cause(run, 1, victim)
    assert found is not None
    assert (found.rank, found.cause, found.error, found.victims) == (2, "loader", "x.png: can't be read", [0, 3])
    assert (found.phase, found.step, found.pid) == ("backward", 3, os.getpid())


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("kind", ["exception", "loader", "non_finite"])
def test_a_rank_that_refused_because_another_failed_is_not_the_first(run: Path, kind: Kind) -> None:
    """The one that failed may be the later to write its record."""
    ranks = [heartbeat(rank, 2) for rank in range(2)]
    write_heartbeats(run, *ranks)
    write_failure(run, ranks[1], "refused", "rank 0(2) has failed", seconds_ago=5)
    failed = write_failure(run, ranks[0], kind, "KeyError: 'x'", seconds_ago=1)
    found = find_root_cause(run, 1, failed)
    assert found is not None
    assert (found.rank, found.cause, found.error) == (0, kind, "KeyError: 'x'")


@pytest.mark.usefixtures("no_patience")
def test_a_rank_that_is_gone_without_a_record_was_killed(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 2), heartbeat(1, 2, pid=NO_PID))
    found = find_root_cause(run, 1, write_failure(run, heartbeat(0, 2), "victim"))
    assert found is not None
    assert (found.rank, found.cause, found.victims) == (1, "killed", [0])
    assert "SIGKILL (for example by the out-of-memory killer, or by hand)" in found.error


def abort(run: Path, rank: int) -> None:
    """What faulthandler leaves of a rank that a thread of NCCL has aborted."""
    text = 'Fatal Python error: Aborted\n\nThread 0x0f (most recent call first):\n  File "a.py", line 1 in main\n'
    (run / "diagnostics" / f"crash_rank_{rank}.txt").write_text(text)


def test_a_rank_that_nccl_aborted_is_not_blamed_for_one_that_was_killed(run: Path) -> None:
    """Rank 2 is killed; the watchdogs of the others end them, and rank 0 gave its last sign of life first."""
    write_heartbeats(run, *(heartbeat(rank, 3, pid=NO_PID) for rank in range(3)))
    for rank in (0, 1):
        abort(run, rank)
    found = find_known_failure(RunEvidence.read(run))
    assert found is not None
    assert (found.rank, found.cause, found.victims) == (2, "killed", [0, 1])


def test_ranks_that_nccl_aborted_lead_to_the_one_they_waited_for(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 2, step=5, pid=NO_PID), heartbeat(1, 2, "data", step=4))
    abort(run, 0)
    found = find_known_failure(RunEvidence.read(run))
    assert found is not None
    assert (found.rank, found.cause) == (1, "stalled")
    assert "NCCL's watchdog" in found.error


def test_where_nccl_aborted_all_ranks_none_is_blamed(run: Path) -> None:
    write_heartbeats(run, *(heartbeat(rank, 2, pid=NO_PID) for rank in range(2)))
    for rank in range(2):
        abort(run, rank)
    found = find_known_failure(RunEvidence.read(run))
    assert found is not None
    assert (found.rank, found.cause) == (None, "stalled")


def test_a_rank_that_has_crashed_is_named_with_its_reason_and_its_stack(run: Path) -> None:
    """Rank 2 has crashed; rank 0, whose last sign of life is older, was killed only then; rank 1 was aborted."""
    write_heartbeats(run, *(heartbeat(rank, 3, pid=NO_PID) for rank in range(3)))
    abort(run, 1)
    frames = [f'  File "{number}.py", line 1 in call' for number in range(20)]
    text = "\n".join(["Current thread 0x0f (most recent call first):", *frames, "", "Extension modules: a, b"])
    (run / "diagnostics" / "crash_rank_2.txt").write_text(f"Fatal Python error: Segmentation fault\n\n{text}")
    found = find_known_failure(RunEvidence.read(run))
    assert found is not None
    assert (found.rank, found.cause, found.victims) == (2, "killed", [0, 1])
    assert found.error == "the process crashed in C code: Segmentation fault; its stack:"
    screen = found.format_screen(run)
    assert "0.py" in screen, "the innermost"
    assert "12.py" not in screen


@pytest.mark.usefixtures("no_patience")
def test_a_rank_that_came_to_its_end_was_not_killed(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 2), heartbeat(1, 2, "end", pid=NO_PID))
    found = find_root_cause(run, 1, write_failure(run, heartbeat(0, 2), "exception"))
    assert found is not None
    assert found.rank == 0


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("kind", ["refused", "interrupted"])
def test_a_refusal_or_an_interruption_needs_no_verdict(run: Path, kind: Kind) -> None:
    write_heartbeats(run, heartbeat(0, 2), heartbeat(1, 2))
    write_failure(run, heartbeat(0, 2), kind, seconds_ago=5)
    assert find_root_cause(run, 1, write_failure(run, heartbeat(1, 2), "victim")) is None


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize(("size", "rank"), [(2, 1), (4, None)])
def test_where_all_are_victims_the_first_is_on_another_host(run: Path, size: int, rank: int | None) -> None:
    write_heartbeats(run, heartbeat(0, size))
    found = find_root_cause(run, 1, write_failure(run, heartbeat(0, size), "victim", CLOSED))
    assert found is not None
    assert (found.rank, found.cause) == (rank, "lost")
    assert "Connection closed by peer" in found.error
    assert "on another host" in found.format_screen(run)


@pytest.mark.usefixtures("no_patience")
def test_a_rank_on_another_host_is_named_by_its_heartbeat(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 2), heartbeat(1, 2, host="other", pid=NO_PID))
    found = find_root_cause(run, 1, write_failure(run, heartbeat(0, 2), "victim", CLOSED))
    assert found is not None
    assert (found.rank, found.cause, found.host, found.pid) == (1, "lost", "other", NO_PID)


@pytest.mark.usefixtures("no_patience")
def test_a_rank_for_which_the_wait_of_its_peers_timed_out_has_stalled(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 2, "backward"), heartbeat(1, 2, "forward"))
    error = "RuntimeError: Timed out waiting 1800000ms for recv operation"
    found = find_root_cause(run, 1, write_failure(run, heartbeat(0, 2), "victim", error))
    assert found is not None
    assert (found.rank, found.cause, found.phase) == (1, "stalled", "forward")


def test_the_rank_that_is_behind_has_stalled(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 3), heartbeat(1, 3, "save"), heartbeat(2, 3))
    write_stacks(run, 1, "/checkpoint.py")
    found = find_stalled_rank(RunEvidence.read(run), "no progress")
    assert (found.rank, found.phase, found.victims) == (1, "save", [0, 2])
    assert '  File "/checkpoint.py", line 3 in wait' in found.format_screen(run)


def test_of_ranks_that_are_level_the_one_that_does_not_wait_has_stalled(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 3), heartbeat(1, 3), heartbeat(2, 3))
    for rank, file in enumerate((IN_TORCH, "/x/train.py", IN_TORCH)):
        write_stacks(run, rank, file)
    assert find_stalled_rank(RunEvidence.read(run), "no progress").rank == 1


def test_where_all_ranks_here_wait_the_stalled_one_is_on_another_host(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 3), heartbeat(1, 3))
    write_stacks(run, 0, IN_TORCH)
    write_stacks(run, 1, IN_TORCH)
    found = find_stalled_rank(RunEvidence.read(run), "no progress")
    assert (found.rank, found.cause) == (2, "stalled")
