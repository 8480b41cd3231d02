"""Which rank failed first."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from dist_train.diagnostics.failure import Kind
from dist_train.diagnostics.root_cause import RunEvidence, judge, judge_stall
from tests.unit.dist_train.diagnostics.evidence import GONE, beat, leave_beats, leave_failure, leave_stacks


@pytest.mark.usefixtures("hasty")
def test_the_earliest_failure_of_a_rank_s_own_is_the_first(run: Path) -> None:
    ranks = [beat(rank, 4) for rank in range(4)]
    leave_beats(run, *ranks)
    leave_failure(run, ranks[0], "victim", "RuntimeError: Connection closed by peer", earlier=9)
    leave_failure(run, ranks[1], "exception", "ValueError: later", earlier=1)
    leave_failure(run, ranks[2], "loader", "x.png: can't be read", earlier=5)
    found = judge(run)
    assert found is not None
    assert (found.rank, found.cause, found.error, found.victims) == (2, "loader", "x.png: can't be read", [0, 3])
    assert (found.phase, found.step, found.pid) == ("backward", 3, os.getpid())


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("exit_codes", "said"),
    [({}, "without a word"), ({1: -9}, "SIGKILL"), ({1: -11}, "signal 11"), ({1: 7}, "exit code 7")],
)
def test_a_rank_that_is_gone_without_a_word_was_killed(run: Path, exit_codes: Mapping[int, int], said: str) -> None:
    leave_beats(run, beat(0, 2), beat(1, 2, pid=GONE))
    leave_failure(run, beat(0, 2), "victim")
    found = judge(run, exit_codes=exit_codes)
    assert found is not None
    assert (found.rank, found.cause, found.victims) == (1, "killed", [0])
    assert said in found.error


@pytest.mark.usefixtures("hasty")
def test_a_rank_that_the_launcher_ended_is_not_the_first(run: Path) -> None:
    leave_beats(run, beat(0, 2, pid=GONE), beat(1, 2, pid=GONE))
    found = judge(run, exit_codes={0: -15, 1: -9})
    assert found is not None
    assert found.rank == 1


@pytest.mark.usefixtures("hasty")
def test_a_rank_that_came_to_its_end_was_not_killed(run: Path) -> None:
    leave_beats(run, beat(0, 2), beat(1, 2, "end", pid=GONE))
    leave_failure(run, beat(0, 2), "exception")
    found = judge(run)
    assert found is not None
    assert found.rank == 0


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["refused", "interrupted"])
def test_a_refusal_or_an_interruption_is_not_judged(run: Path, kind: Kind) -> None:
    leave_beats(run, beat(0, 2), beat(1, 2))
    leave_failure(run, beat(0, 2), kind, earlier=5)
    leave_failure(run, beat(1, 2), "victim")
    assert judge(run) is None


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("size", "rank"), [(2, 1), (4, None)])
def test_where_all_are_victims_the_first_is_on_another_host(run: Path, size: int, rank: int | None) -> None:
    leave_beats(run, beat(0, size))
    leave_failure(run, beat(0, size), "victim", "RuntimeError: Connection closed by peer")
    found = judge(run)
    assert found is not None
    assert (found.rank, found.cause) == (rank, "lost")
    assert "Connection closed by peer" in found.error
    assert "on another host" in found.screen(run)


@pytest.mark.usefixtures("hasty")
def test_a_rank_on_another_host_is_named_by_its_beat(run: Path) -> None:
    leave_beats(run, beat(0, 2), beat(1, 2, host="other", pid=GONE))
    leave_failure(run, beat(0, 2), "victim", "RuntimeError: Connection closed by peer")
    found = judge(run)
    assert found is not None
    assert (found.rank, found.cause, found.host, found.pid) == (1, "lost", "other", GONE)


@pytest.mark.usefixtures("hasty")
def test_a_rank_that_its_peers_waited_for_in_vain_has_stalled(run: Path) -> None:
    leave_beats(run, beat(0, 2, "backward"), beat(1, 2, "forward"))
    leave_failure(run, beat(0, 2), "victim", "RuntimeError: Timed out waiting 1800000ms for recv operation")
    found = judge(run)
    assert found is not None
    assert (found.rank, found.cause, found.phase) == (1, "stalled", "forward")


def test_the_rank_behind_is_the_one_that_has_stalled(run: Path) -> None:
    leave_beats(run, beat(0, 3), beat(1, 3, "save"), beat(2, 3))
    leave_stacks(run, 1, "/checkpoint.py")
    found = judge_stall(RunEvidence.of(run), "no progress")
    assert (found.rank, found.phase, found.victims) == (1, "save", [0, 2])
    assert '  File "/checkpoint.py", line 3 in wait' in found.screen(run)


def test_of_ranks_at_one_place_the_one_that_does_not_wait_in_torch_has_stalled(run: Path) -> None:
    leave_beats(run, beat(0, 3), beat(1, 3), beat(2, 3))
    for rank, file in enumerate(("/x/torch/autograd/graph.py", "/x/train.py", "/x/torch/autograd/graph.py")):
        leave_stacks(run, rank, file)
    assert judge_stall(RunEvidence.of(run), "no progress").rank == 1


def test_where_all_wait_in_torch_the_rank_that_has_stalled_is_on_another_host(run: Path) -> None:
    leave_beats(run, beat(0, 3), beat(1, 3))
    leave_stacks(run, 0, "/x/torch/autograd/graph.py")
    leave_stacks(run, 1, "/x/torch/autograd/graph.py")
    found = judge_stall(RunEvidence.of(run), "no progress")
    assert (found.rank, found.cause) == (2, "stalled")
