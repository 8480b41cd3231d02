"""How a run has ended, read from its directory."""

import json
import os
import socket
from pathlib import Path

import pytest

from dist_train.diagnostics.postmortem import postmortem
from dist_train.diagnostics.root_cause import judge, publish
from dist_train.errors import ConfigError
from tests.unit.dist_train.diagnostics.evidence import GONE, beat, leave_beats, leave_failure


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
