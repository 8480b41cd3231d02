"""What a recorder leaves when a rank ends, by itself or by an exception."""

import signal
import threading
from pathlib import Path

import pytest

from dist_train.diagnostics.failure import read_failures
from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.diagnostics.recorder import clear_diagnostics, open_recorder
from dist_train.diagnostics.root_cause import judge, publish, read_verdict
from dist_train.errors import ConfigError, DataError, NonFiniteError, is_told
from dist_train.system.exit import run_guarded
from dist_train.system.stop_signals import StopRequested
from tests.unit.dist_train.diagnostics.evidence import GONE, RankId, beat, leave_beats, leave_failure


def test_a_beat_that_no_disk_takes_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("a file where the directory should be")
    with open_recorder(tmp_path / "digits", RankId(0, 1), 1, 10, "") as recorder:
        recorder.mark("forward", 3)


def test_a_start_clears_what_others_have_left(run: Path) -> None:
    leave_beats(run, beat(0, 1, pid=GONE))
    leave_failure(run, beat(0, 1), "exception")
    found = judge(run)
    assert found is not None
    publish(run, found)
    clear_diagnostics(run)
    assert [path.name for path in (run / "diagnostics").iterdir()] == ["verdict_1.json"]


def test_an_exception_is_recorded_told_once_and_raised_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        with open_recorder(run, RankId(0, 1), 1, 10, "the command") as recorder:
            recorder.mark("update", 8)
            raise NonFiniteError("loss nan in step 8", overrides="optim.lr=0.1")

    assert run_guarded(main) == 4
    said = capsys.readouterr().err
    assert said.startswith("---- digits: the run failed ----\nfirst failed   rank 0(1)")
    assert said.count("loss nan in step 8") == 1
    found = read_verdict(run)
    assert found is not None
    assert (found.cause, found.phase, found.step) == ("non_finite", "update", 8)
    assert found.next_command == "the command optim.lr=0.1"
    assert "NonFiniteError" in read_failures(run / "diagnostics", 1)[0].traceback


def test_a_failure_without_a_recorder_has_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise NonFiniteError("loss nan")

    assert run_guarded(main) == 4
    assert capsys.readouterr().err.startswith("Traceback")


@pytest.mark.parametrize("error", [ConfigError("optim.lr: no"), DataError("no such file"), KeyboardInterrupt()])
def test_a_refusal_is_recorded_and_nothing_more(
    run: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    with pytest.raises(type(error)), open_recorder(run, RankId(0, 1), 1, 10, "the command"):
        raise error
    assert capsys.readouterr().err == ""
    assert not is_told(error)
    assert read_verdict(run) is None
    assert read_failures(run / "diagnostics", 1)[0].is_silent


def test_a_disk_that_takes_nothing_does_not_hide_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits").write_text("a file where the directory should be")
    with (
        pytest.raises(ValueError, match="bad thing"),
        open_recorder(tmp_path / "digits", RankId(1, 2), 1, 10, "the command"),
    ):
        raise ValueError("bad thing")
    said = capsys.readouterr().err
    assert "first failed   rank 1(2)" in said
    assert "cause          exception: ValueError: bad thing" in said


def test_an_end_is_noted_and_signals_are_as_before(run: Path) -> None:
    before, threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    with open_recorder(run, RankId(0, 1), 1, None, "the command") as recorder:
        recorder.mark("update", 8)
    assert [(each.phase, each.step) for each in read_heartbeats(run / "diagnostics").values()] == [("end", 8)]
    assert (signal.getsignal(signal.SIGTERM), threading.active_count()) == (before, threads)
    assert signal.set_wakeup_fd(-1) == -1


def test_a_rank_whose_peers_were_asked_to_stop_stops_too(run: Path) -> None:
    with open_recorder(run, RankId(1, 2), 1, 10, "the command") as peer:
        peer.record_interruption("asked to stop before the first step")
    with pytest.raises(StopRequested), open_recorder(run, RankId(0, 2), 1, 10, "the command"):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:9")
    assert read_verdict(run) is None


def test_a_rank_that_was_asked_to_stop_takes_a_lost_peer_for_one_that_has_left(run: Path) -> None:
    with pytest.raises(StopRequested), open_recorder(run, RankId(0, 2), 1, 10, "the command", lambda: True):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:9")
    assert read_verdict(run) is None


def test_a_launcher_that_ends_what_a_dead_rank_has_left_asks_nobody_to_stop(run: Path) -> None:
    leave_beats(run, beat(1, 2, pid=GONE))
    with pytest.raises(RuntimeError), open_recorder(run, RankId(0, 2), 1, 10, "the command", lambda: True):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:9")
    found = read_verdict(run)
    assert found is not None
    assert (found.rank, found.cause) == (1, "killed")
