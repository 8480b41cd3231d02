"""A verdict on the rank that failed first: what is noted, who is judged, and how the others end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dist_train.diagnostics import root_cause as verdict_module
from dist_train.diagnostics.failure import Failure, Kind, kind_of, one_line, read_failures
from dist_train.diagnostics.heartbeat import Beat, BeatFile, Origin, Phase, process_state, read_beats
from dist_train.diagnostics.postmortem import postmortem
from dist_train.diagnostics.recorder import clear, open_recorder
from dist_train.diagnostics.root_cause import RunEvidence, judge, judge_stall, publish, read_verdict
from dist_train.diagnostics.stack_traces import frames_of_main, is_waiting
from dist_train.errors import ConfigError, DataError, NonFiniteError, is_told
from dist_train.system.exit import run_guarded
from dist_train.system.stop_signals import StopRequested
from tests.conftest import ROOT, Torchrun

KEYS = {
    "rank", "world_size", "host", "pid", "phase", "step", "cause", "error", "victims", "next_command",
}  # fmt: skip
GONE = 2**22 + 1  # no process has such a number


@dataclass(frozen=True)
class Place:
    rank: int
    size: int


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "digits" / "diagnostics").mkdir(parents=True)
    return tmp_path / "digits"


def beat(rank: int, size: int, phase: Phase = "backward", step: int = 3, **changes: Any) -> Beat:
    """A beat of this very process, which lives, except for what is changed."""
    return Beat(replace(Origin.here(Place(rank, size), 1, "the command"), **changes), phase, step, time.time())


def leave_beats(run: Path, *beats: Beat) -> None:
    for each in beats:
        file = BeatFile(run / "diagnostics", each.origin)
        file.mark(each.phase, each.step)
        file.close()


def leave_failure(run: Path, of: Beat, kind: Kind, error: str = "ValueError: bad thing", earlier: float = 0) -> None:
    replace(Failure.at(of, kind, error), time=time.time() - earlier).write(run / "diagnostics")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the words of others: there are none to come."""
    monkeypatch.setattr(verdict_module, "_PATIENCE", 0)
    monkeypatch.setattr(verdict_module, "_SETTLE", 0)


# Beats.


def test_a_beat_is_read_as_it_was_noted(run: Path) -> None:
    leave_beats(run, beat(0, 2, "save", 5), beat(1, 2, "data", 6))
    found = read_beats(run / "diagnostics")
    assert [(each.phase, each.step) for each in (found[0], found[1])] == [("save", 5), ("data", 6)]
    assert found[0].is_here
    assert found[0].state() != "X"
    assert found[1].origin.name == "1(2)"


def test_beats_of_other_attempts_and_other_files_are_passed_over(run: Path) -> None:
    leave_beats(run, beat(0, 3, attempt=2), beat(1, 3, attempt=1))
    (run / "diagnostics" / "rank_2.beat").write_bytes(b"not a beat")
    assert list(read_beats(run / "diagnostics")) == [0]
    assert list(read_beats(run / "diagnostics", 1)) == [1]


def test_a_step_passes_through_the_phases_in_their_order() -> None:
    """The save after step n and the data of the next bear the same number."""
    road = [beat(0, 1, "update", 4), beat(0, 1, "evaluate", 5), beat(0, 1, "save", 5), beat(0, 1, "data", 5)]
    assert road == sorted(road, key=lambda each: each.progress)


def test_a_process_is_not_taken_for_another_with_its_number() -> None:
    started = Origin.here(Place(0, 1), 1, "").started
    assert process_state(os.getpid(), started) in "RS"
    assert process_state(os.getpid(), started + 1) == "X"
    assert process_state(GONE, started) == "X"


def test_a_beat_that_no_disk_takes_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("a file where the directory should be")
    with open_recorder(tmp_path / "digits", Place(0, 1), 1, 10, "") as recorder:
        recorder.mark("forward", 3)


# What an exception means.


class DistBackendError(RuntimeError):
    """As torch names its own."""


class DistNetworkError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    ("error", "phase", "kind"),
    [
        (ValueError("bad thing"), "forward", "exception"),
        (RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"), "backward", "victim"),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), "backward", "victim"),
        (DistNetworkError("rank 1(2), pid 7, has gone"), "backward", "victim"),
        (DistBackendError("NCCL error: remote process exited or there was a network error"), "backward", "victim"),
        (ConnectionResetError("Connection reset by peer"), "data", "exception"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "backward", "loader"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "data", "loader"),
        (RuntimeError("Expected to have finished reduction in the prior iteration"), "forward", "exception"),
        (DataError("x.png: can't be read"), "data", "loader"),
        (DataError("x.png: can't be read"), "start", "refused"),
        (ConfigError("optim.lr: no"), "save", "refused"),
        (NonFiniteError("loss nan"), "update", "non_finite"),
        (KeyboardInterrupt(), "forward", "interrupted"),
    ],
)
def test_an_exception_is_told_by_its_type_and_text(error: BaseException, phase: str, kind: str) -> None:
    assert kind_of(error, phase) == kind


def test_an_error_is_one_line() -> None:
    assert one_line(ValueError("bad\n  thing")) == "ValueError: bad thing"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(DataError("x.png: can't be read")) == "x.png: can't be read"
    worker = ValueError(
        "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n  File\nValueError: no"
    )
    assert one_line(worker) == "ValueError: Caught ValueError in DataLoader worker process 0. ValueError: no"


# Who is judged.


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


def leave_stacks(run: Path, rank: int, file: str) -> None:
    text = f'Thread 0x0f (most recent call first):\n  File "{file}", line 3 in wait\n  File "a.py", line 1 in main\n'
    (run / "diagnostics" / f"stacks_rank_{rank}.txt").write_text(f"Current thread 0x1f\n  File x\n\n{text}")


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
    assert is_waiting(frames_of_main(run / "diagnostics", 0))
    assert is_waiting(['  File "/x/dist_train/distributed/shared_memory.py", line 3 in _wait_for'])
    assert not is_waiting(['  File "/x/dist_train/train.py", line 3 in train_step'])


def test_where_all_wait_in_torch_the_rank_that_has_stalled_is_on_another_host(run: Path) -> None:
    leave_beats(run, beat(0, 3), beat(1, 3))
    leave_stacks(run, 0, "/x/torch/autograd/graph.py")
    leave_stacks(run, 1, "/x/torch/autograd/graph.py")
    found = judge_stall(RunEvidence.of(run), "no progress")
    assert (found.rank, found.cause) == (2, "stalled")


# What is said.


def test_the_first_verdict_of_an_attempt_stands(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = RunEvidence(run, 1, {0: beat(0, 2), 1: beat(1, 2)}, {}, {})
    first, second = (scene.verdict("killed", "error", scene.beats[rank]) for rank in (1, 0))
    assert (publish(run, first), publish(run, second)) == (True, False)
    assert read_verdict(run) == first
    assert capsys.readouterr().err == first.screen(run) + "\n"
    assert sorted(path.name for path in (run / "diagnostics").iterdir()) == ["verdict.json", "verdict_1.json"]
    assert publish(run, replace(second, attempt=2))
    assert set(json.loads((run / "diagnostics" / "verdict.json").read_text())) >= KEYS


def test_the_screen_of_a_failure(run: Path) -> None:
    (run / "checkpoints" / "step_00000500").mkdir(parents=True)
    (run / "checkpoints" / "step_00000500" / "manifest.json").touch()
    (run / "checkpoints" / "step_00000600").mkdir()  # not whole
    failing = beat(1, 2, "forward", 513, host="h", pid=123)
    frames = '  File "a.py", line 1, in f\n    g(bad)\n      ^^^\n'
    whole = f"Traceback (most recent call last):\n{frames}ValueError: bad thing\n"
    failure = Failure.at(failing, "exception", "ValueError: bad thing", whole)
    scene = RunEvidence(run, 1, {0: beat(0, 2), 1: failing}, {1: failure}, {})
    assert scene.verdict("exception", failure.error, failure).screen(run).splitlines() == [
        "---- digits: the run failed ----",
        "first failed   rank 1(2) on host h, pid 123",
        "where          forward of step 514",
        "cause          exception: ValueError: bad thing",
        '                 File "a.py", line 1, in f',
        "                   g(bad)",
        "victims        rank 0(2)",
        "next           the command   (goes on from step 500)",
    ]


def test_a_start_clears_what_others_have_left(run: Path) -> None:
    leave_beats(run, beat(0, 1, pid=GONE))
    leave_failure(run, beat(0, 1), "exception")
    found = judge(run)
    assert found is not None
    publish(run, found)
    clear(run)
    assert [path.name for path in (run / "diagnostics").iterdir()] == ["verdict_1.json"]


# The recorder.


def test_an_exception_is_recorded_told_once_and_raised_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        with open_recorder(run, Place(0, 1), 1, 10, "the command") as recorder:
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
    with pytest.raises(type(error)), open_recorder(run, Place(0, 1), 1, 10, "the command"):
        raise error
    assert capsys.readouterr().err == ""
    assert not is_told(error)
    assert read_verdict(run) is None
    assert read_failures(run / "diagnostics", 1)[0].is_silent


def test_a_disk_that_takes_nothing_does_not_hide_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits").write_text("a file where the directory should be")
    with (
        pytest.raises(ValueError, match="bad thing"),
        open_recorder(tmp_path / "digits", Place(1, 2), 1, 10, "the command"),
    ):
        raise ValueError("bad thing")
    said = capsys.readouterr().err
    assert "first failed   rank 1(2)" in said
    assert "cause          exception: ValueError: bad thing" in said


def test_an_end_is_noted_and_signals_are_as_before(run: Path) -> None:
    before, threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    with open_recorder(run, Place(0, 1), 1, None, "the command") as recorder:
        recorder.mark("update", 8)
    assert [(each.phase, each.step) for each in read_beats(run / "diagnostics").values()] == [("end", 8)]
    assert (signal.getsignal(signal.SIGTERM), threading.active_count()) == (before, threads)
    assert signal.set_wakeup_fd(-1) == -1


# How a run has ended.


def leave_status(run: Path, state: str, host: str | None = None, pid: int | None = None, **more: str) -> None:
    status = {**more, "state": state, "step": 40, "host": host or socket.gethostname(), "pid": pid or os.getpid()}
    (run / "status.json").write_text(json.dumps({**status, "updated": "2026-01-01T00:00:00+00:00"}))


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [("done", 0, "done at step 40"), ("preempted", 0, "Go on: the command"), ("running", 0, "running at step 40")],
)
def test_postmortem_of_a_run_that_has_not_failed(run: Path, state: str, code: int, said: str) -> None:
    leave_beats(run, beat(0, 1))
    leave_status(run, state)
    text, found = postmortem(run)
    assert found == code
    assert said in text


def test_postmortem_of_a_run_that_was_refused_before_it_began(run: Path) -> None:
    leave_status(run, "failed", pid=GONE, error="no such data")
    text, code = postmortem(run)
    assert (code, "ended at step" in text, "no such data" in text) == (1, True, True)


def test_postmortem_of_a_run_whose_ranks_are_gone(run: Path) -> None:
    leave_beats(run, beat(0, 2, pid=GONE), beat(1, 2, pid=GONE))
    leave_status(run, "running", pid=GONE)
    text, code = postmortem(run)
    assert code == 1
    assert "cause          killed: all ranks ended without a word, as when their launcher" in text
    assert "victims" not in text
    assert "verdict.json" not in text, "there is none"
    assert "next           the command" in text


@pytest.mark.parametrize("content", ["[]", "{}", '"x"', '{"state": "running"}', "\0", '{"state": "done", "step": "5"}'])
def test_postmortem_of_a_damaged_status_is_refused(run: Path, content: str) -> None:
    (run / "status.json").write_text(content)
    with pytest.raises(ConfigError, match=r"no whole status\.json"):
        postmortem(run)


def test_a_damaged_verdict_is_none(run: Path) -> None:
    leave_beats(run, beat(0, 1))
    leave_failure(run, beat(0, 1), "exception")
    found = judge(run)
    assert found is not None
    publish(run, found)
    (run / "diagnostics" / "verdict.json").write_text(json.dumps({**found.to_dict(), "victims": None}))
    assert read_verdict(run) is None


def test_postmortem_repeats_the_verdict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_beats(run, beat(0, 1))
    leave_status(run, "failed")
    leave_failure(run, beat(0, 1), "exception")
    found = judge(run)
    assert found is not None
    publish(run, found)
    assert postmortem(run) == (capsys.readouterr().err.rstrip(), 1)


def test_postmortem_of_what_was_refused_or_is_elsewhere(run: Path) -> None:
    leave_beats(run, beat(0, 1, pid=GONE))
    leave_status(run, "failed", pid=GONE)
    leave_failure(run, beat(0, 1), "refused", "optim.lr: no")
    text, code = postmortem(run)
    assert code == 1
    assert "refused: optim.lr: no. Go on: the command (starts at step 0)" in text
    leave_status(run, "running", host="other")
    assert postmortem(run)[1] == 0
    assert "can be seen there only" in postmortem(run)[0]


def test_postmortem_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run"):
        postmortem(tmp_path)


# Ranks that end each other; without torch.

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


def test_a_rank_whose_peers_were_asked_to_stop_stops_too(run: Path) -> None:
    with open_recorder(run, Place(1, 2), 1, 10, "the command") as peer:
        peer.leave("asked to stop before the first step")
    with pytest.raises(StopRequested), open_recorder(run, Place(0, 2), 1, 10, "the command"):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:9")
    assert read_verdict(run) is None


def test_a_rank_that_was_asked_to_stop_takes_a_lost_peer_for_one_that_has_left(run: Path) -> None:
    with pytest.raises(StopRequested), open_recorder(run, Place(0, 2), 1, 10, "the command", lambda: True):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:9")
    assert read_verdict(run) is None


def test_a_launcher_that_ends_what_a_dead_rank_has_left_asks_nobody_to_stop(run: Path) -> None:
    leave_beats(run, beat(1, 2, pid=GONE))
    with pytest.raises(RuntimeError), open_recorder(run, Place(0, 2), 1, 10, "the command", lambda: True):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:9")
    found = read_verdict(run)
    assert found is not None
    assert (found.rank, found.cause) == (1, "killed")


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


# Real ranks.


def misbehave(run: Path, fault: str, rank: int, *overrides: str) -> tuple[list[str], dict[str, str]]:
    """The command and the variables of a training in which a rank misbehaves."""
    command = ["tests/programs/misbehaves.py", "configs/digits.yaml", f"run.dir={run}", "run.name=digits"]
    return (
        [*command, "train.epochs=1", "distributed.backend=gloo", "distributed.threads=1", *overrides],
        {"DIST_TRAIN_TEST_FAULT": fault, "DIST_TRAIN_TEST_RANK": str(rank)},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "cause", "said"),
    [
        ("raise", "exception", "ValueError: bad thing"),
        ("kill", "killed", "without a word"),
        ("sleep", "stalled", "no progress"),
        ("stop", "stalled", "its process is stopped"),
        ("loader", "loader", "DataLoader worker"),
    ],
)
def test_a_run_ends_with_one_verdict(tmp_path: Path, torchrun: Torchrun, fault: str, cause: str, said: str) -> None:
    patience = 0.05 if cause == "stalled" else 5  # on a busy machine a start of workers takes seconds
    settings = (f"distributed.stall_minutes={patience}", "data.loader=workers", "data.workers=1")
    command, variables = misbehave(tmp_path / "digits", fault, 1, *settings)
    done = torchrun(2, *command, env=variables)
    assert done.returncode == 1
    assert done.stderr.count("---- digits: the run failed ----") == 1
    assert 'Traceback (most recent call last):\n  File "<frozen runpy>' in done.stderr  # torchrun's own only
    found = read_verdict(tmp_path / "digits")
    assert found is not None
    assert (found.rank, found.world_size, found.cause, found.victims) == (1, 2, cause, [0])
    assert (found.phase, found.step) == ("forward", 3)
    assert said in found.error
    assert json.loads((tmp_path / "digits" / "status.json").read_text())["state"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "words"), [("auto", "rank 1(2), pid "), ("off", "peer")])
def test_a_peer_that_is_lost_is_told_from_a_fault(tmp_path: Path, setting: str, words: str) -> None:
    """No launcher ends the rank that is left: it has noticed in shared memory, or has Gloo's own words."""
    command, variables = misbehave(tmp_path / "digits", "kill", 1, f"distributed.shared_memory={setting}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables, **shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        assert end(ranks[1])[0] == -signal.SIGKILL
        code, said = end(ranks[0])
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert code == 1
    assert "cause          killed" in said
    assert "Traceback" not in said
    left = read_failures(tmp_path / "digits" / "diagnostics", 1)
    assert left[0].kind == "victim"
    assert words in left[0].error
