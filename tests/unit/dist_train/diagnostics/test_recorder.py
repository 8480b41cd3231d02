"""What a recorder leaves when a rank ends, by itself or by an exception."""

import signal
import threading
from pathlib import Path

import pytest

from dist_train.diagnostics.failure import read_failures
from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.diagnostics.recorder import clear_diagnostics, open_recorder
from dist_train.diagnostics.verdict import read_verdict
from dist_train.errors import ConfigError, DataError, NonFiniteError, is_reported
from dist_train.system.exit import run_guarded
from dist_train.system.stop_signals import StopRequested
from tests.unit.dist_train.diagnostics.run_files import NO_PID, Rank, heartbeat, write_heartbeats, write_verdict


def test_a_start_removes_the_files_of_earlier_attempts(run: Path) -> None:
    write_verdict(run)
    clear_diagnostics(run)
    assert [path.name for path in (run / "diagnostics").iterdir()] == ["verdict_1.json"]


def test_an_exception_is_recorded_printed_once_and_raised_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        with open_recorder(run, Rank(0, 1), 1, 10, "the command") as recorder:
            recorder.mark("update", 8)
            raise NonFiniteError("loss nan in step 8", overrides="optim.lr=0.1")

    assert run_guarded(main) == 4
    printed = capsys.readouterr().err
    assert printed.startswith("---- digits: the run failed ----\nfirst failed   rank 0(1)")
    assert printed.count("loss nan in step 8") == 1
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
    with pytest.raises(type(error)), open_recorder(run, Rank(0, 1), 1, 10, "the command"):
        raise error
    assert capsys.readouterr().err == ""
    assert not is_reported(error)
    assert read_verdict(run) is None
    assert read_failures(run / "diagnostics", 1)[0].kind in ("refused", "interrupted")


def test_a_failing_disk_does_not_hide_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits").write_text("a file where the directory should be")
    with (
        pytest.raises(ValueError, match="bad thing"),
        open_recorder(tmp_path / "digits", Rank(1, 2), 1, 10, "the command"),
    ):
        raise ValueError("bad thing")
    printed = capsys.readouterr().err
    assert "first failed   rank 1(2)" in printed
    assert "cause          exception: ValueError: bad thing" in printed


def test_a_normal_end_is_recorded_and_leaves_no_thread_or_handler(run: Path) -> None:
    before, threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    with open_recorder(run, Rank(0, 1), 1, None, "the command") as recorder:
        recorder.mark("update", 8)
    assert [(each.phase, each.step) for each in read_heartbeats(run / "diagnostics").values()] == [("end", 8)]
    assert (signal.getsignal(signal.SIGTERM), threading.active_count()) == (before, threads)
    assert signal.set_wakeup_fd(-1) == -1


def test_a_rank_whose_peers_were_asked_to_stop_stops_too(run: Path) -> None:
    with open_recorder(run, Rank(1, 2), 1, 10, "the command") as peer:
        peer.record_interruption("asked to stop before the first step")
    with pytest.raises(StopRequested), open_recorder(run, Rank(0, 2), 1, 10, "the command"):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:9")
    assert read_verdict(run) is None


def test_a_rank_that_was_asked_to_stop_does_not_blame_a_lost_peer(run: Path) -> None:
    with pytest.raises(StopRequested), open_recorder(run, Rank(0, 2), 1, 10, "the command", lambda: True):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:9")
    assert read_verdict(run) is None


def test_a_killed_rank_is_blamed_although_the_launcher_stops_the_others(run: Path) -> None:
    write_heartbeats(run, heartbeat(1, 2, pid=NO_PID))
    with pytest.raises(RuntimeError), open_recorder(run, Rank(0, 2), 1, 10, "the command", lambda: True):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:9")
    found = read_verdict(run)
    assert found is not None
    assert (found.rank, found.cause) == (1, "killed")
