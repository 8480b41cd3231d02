"""How a run has ended, read from its directory."""

import json
import os
import socket
from pathlib import Path

import pytest

from dist_train.diagnostics.postmortem import describe_unreported_end, postmortem
from dist_train.errors import ConfigError
from tests.unit.dist_train.diagnostics.run_files import (
    NO_PID,
    heartbeat,
    write_failure,
    write_heartbeats,
    write_verdict,
)


def write_status(run: Path, state: str, host: str | None = None, pid: int | None = None, **more: str) -> None:
    status = {**more, "state": state, "step": 40, "host": host or socket.gethostname(), "pid": pid or os.getpid()}
    (run / "status.json").write_text(json.dumps({**status, "updated": "2026-01-01T00:00:00+00:00"}))


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [("done", 0, "done at step 40"), ("preempted", 0, "To resume: the command"), ("running", 0, "running at step 40")],
)
def test_postmortem_of_a_run_that_has_not_failed(run: Path, state: str, code: int, words: str) -> None:
    write_heartbeats(run, heartbeat(0, 1))
    write_status(run, state)
    text, found = postmortem(run)
    assert found == code
    assert words in text


def test_postmortem_of_a_run_that_was_refused_before_it_began(run: Path) -> None:
    write_status(run, "failed", pid=NO_PID, error="no such data")
    text, code = postmortem(run)
    assert (code, "ended at step" in text, "no such data" in text) == (1, True, True)


def test_postmortem_of_a_run_whose_ranks_are_gone(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 2, pid=NO_PID), heartbeat(1, 2, pid=NO_PID))
    write_status(run, "running", pid=NO_PID)
    text, code = postmortem(run)
    assert code == 1
    assert "cause          killed: all ranks ended without an error message, as when their launcher" in text
    assert "victims" not in text
    assert "verdict.json" not in text, "there is none"
    assert "next           the command" in text


@pytest.mark.parametrize("content", ["[]", "{}", '"x"', '{"state": "running"}', "\0", '{"state": "done", "step": "5"}'])
def test_postmortem_of_a_damaged_status_is_refused(run: Path, content: str) -> None:
    (run / "status.json").write_text(content)
    with pytest.raises(ConfigError, match=r"no complete status\.json|status\.json: can't be read"):
        postmortem(run)


@pytest.mark.parametrize("content", [None, "[]", "{}", '{"state": "done"}', '{"state": "running", "host": 3}'])
def test_no_end_is_reported_of_a_start_that_was_not_lost(run: Path, content: str | None) -> None:
    write_heartbeats(run, heartbeat(0, 1, pid=NO_PID))
    (run / "run.lock").touch()
    if content is not None:
        (run / "status.json").write_text(content)
    assert describe_unreported_end(run) is None


def test_the_end_of_a_lost_start_is_reported_once(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 1, pid=NO_PID))
    write_status(run, "running", pid=NO_PID)
    (run / "run.lock").touch()
    line = describe_unreported_end(run)
    assert line is not None
    assert "in backward of step 4: killed: the process ended without an error message, as after SIGKILL" in line
    assert "or after a crash in C code, whose stack it has then printed" in line, "none but itself could see it"
    write_verdict(run)
    assert describe_unreported_end(run) is None


def test_postmortem_repeats_the_verdict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_status(run, "failed")
    write_verdict(run)
    assert postmortem(run) == (capsys.readouterr().err.rstrip(), 1)


def test_postmortem_of_what_was_refused_or_is_elsewhere(run: Path) -> None:
    write_heartbeats(run, heartbeat(0, 1, pid=NO_PID))
    write_status(run, "failed", pid=NO_PID)
    write_failure(run, heartbeat(0, 1), "refused", "optim.lr: no")
    text, code = postmortem(run)
    assert code == 1
    assert "refused: optim.lr: no. To resume: the command (starts at step 0)" in text
    write_status(run, "running", host="other")
    assert postmortem(run)[1] == 0
    assert "Only that host can tell" in postmortem(run)[0]


def test_postmortem_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run"):
        postmortem(tmp_path)
