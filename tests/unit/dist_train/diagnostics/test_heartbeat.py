"""Heartbeats: what is read is what was recorded, and by which process."""

import os
from pathlib import Path

from dist_train.diagnostics.heartbeat import HeartbeatFile, RankProcess, read_heartbeats
from tests.unit.dist_train.diagnostics.run_files import NO_PID, Rank, heartbeat, write_heartbeats


def test_a_heartbeat_is_read_as_it_was_recorded(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 2, "save", 5), heartbeat(1, 2, "data", 6))
    found = read_heartbeats(run / "diagnostics")
    assert [(each.phase, each.step) for each in (found[0], found[1])] == [("save", 5), ("data", 6)]
    assert found[0].is_on_this_host
    assert found[0].is_alive()
    assert not found[0].is_stopped()
    assert found[1].process.name == "1(2)"


def test_heartbeats_of_other_attempts_and_other_files_are_ignored(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 3, attempt=2), heartbeat(1, 3, attempt=1))
    (run / "diagnostics" / "rank_2.beat").write_bytes(b"not a heartbeat")
    assert list(read_heartbeats(run / "diagnostics")) == [0]
    assert list(read_heartbeats(run / "diagnostics", 1)) == [1]


def test_progress_follows_the_order_of_the_phases() -> None:
    """The save after step n and the data of the next step have the same number."""
    phases = [
        heartbeat(0, 1, "update", 4),
        heartbeat(0, 1, "evaluate", 5),
        heartbeat(0, 1, "save", 5),
        heartbeat(0, 1, "data", 5),
    ]
    assert phases == sorted(phases, key=lambda each: each.progress)


def test_another_process_with_the_same_pid_is_not_the_rank() -> None:
    started = RankProcess.current(Rank(0, 1), 1, "").started
    assert heartbeat(0, 1).is_alive()
    assert not heartbeat(0, 1, started=started + 1).is_alive()
    assert not heartbeat(0, 1, pid=NO_PID).is_alive()


def test_a_heartbeat_stays_in_memory_where_the_disk_refuses_its_file(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("a file where the directory should be")
    file = HeartbeatFile(tmp_path / "digits", RankProcess.current(Rank(0, 1), 1, ""))
    file.mark("forward", 3)
    assert (file.read().phase, file.read().step, file.read().process.pid) == ("forward", 3, os.getpid())
    file.close()
