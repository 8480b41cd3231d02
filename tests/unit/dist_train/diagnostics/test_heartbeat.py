"""Heartbeats: what is read is what was written, and from which process."""

import os
from pathlib import Path

from dist_train.diagnostics.heartbeat import RankProcess, process_state, read_heartbeats
from tests.unit.dist_train.diagnostics.evidence import GONE, RankId, beat, leave_beats


def test_a_beat_is_read_as_it_was_noted(run: Path) -> None:
    leave_beats(run, beat(0, 2, "save", 5), beat(1, 2, "data", 6))
    found = read_heartbeats(run / "diagnostics")
    assert [(each.phase, each.step) for each in (found[0], found[1])] == [("save", 5), ("data", 6)]
    assert found[0].is_here
    assert found[0].state() != "X"
    assert found[1].origin.name == "1(2)"


def test_beats_of_other_attempts_and_other_files_are_passed_over(run: Path) -> None:
    leave_beats(run, beat(0, 3, attempt=2), beat(1, 3, attempt=1))
    (run / "diagnostics" / "rank_2.beat").write_bytes(b"not a beat")
    assert list(read_heartbeats(run / "diagnostics")) == [0]
    assert list(read_heartbeats(run / "diagnostics", 1)) == [1]


def test_a_step_passes_through_the_phases_in_their_order() -> None:
    """The save after step n and the data of the next bear the same number."""
    road = [beat(0, 1, "update", 4), beat(0, 1, "evaluate", 5), beat(0, 1, "save", 5), beat(0, 1, "data", 5)]
    assert road == sorted(road, key=lambda each: each.progress)


def test_a_process_is_not_taken_for_another_with_its_number() -> None:
    started = RankProcess.current(RankId(0, 1), 1, "").started
    assert process_state(os.getpid(), started) in "RS"
    assert process_state(os.getpid(), started + 1) == "X"
    assert process_state(GONE, started) == "X"
