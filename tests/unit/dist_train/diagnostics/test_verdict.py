"""The verdict: one for each attempt, as a file and as a screen."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dist_train.diagnostics.failure import Failure
from dist_train.diagnostics.root_cause import RunEvidence
from dist_train.diagnostics.verdict import publish_verdict, read_verdict
from tests.unit.dist_train.diagnostics.run_files import heartbeat, write_verdict

KEYS = {
    "rank", "world_size", "host", "pid", "phase", "step", "cause", "error", "victims", "next_command", "attempt",
    "time", "traceback", "checkpoint",
}  # fmt: skip


def test_the_first_verdict_of_an_attempt_counts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = RunEvidence(run, 1, {0: heartbeat(0, 2), 1: heartbeat(1, 2)}, {})
    first, second = (evidence.make_verdict("killed", "error", evidence.heartbeats[rank]) for rank in (1, 0))
    assert (publish_verdict(run, first), publish_verdict(run, second)) == (True, False)
    assert read_verdict(run) == first
    assert capsys.readouterr().err == first.format_screen(run) + "\n"
    assert sorted(path.name for path in (run / "diagnostics").iterdir()) == ["verdict.json", "verdict_1.json"]
    assert publish_verdict(run, replace(second, attempt=2))
    assert set(json.loads((run / "diagnostics" / "verdict.json").read_text())) == KEYS


def test_the_screen_of_a_failure(run: Path) -> None:
    (run / "checkpoints" / "step_00000500").mkdir(parents=True)
    (run / "checkpoints" / "step_00000500" / "manifest.json").touch()
    (run / "checkpoints" / "step_00000600").mkdir()  # not complete
    failing = heartbeat(1, 2, "forward", 513, host="h", pid=123)
    frames = '  File "a.py", line 1, in f\n    g(bad)\n      ^^^\n'
    traceback = f"Traceback (most recent call last):\n{frames}ValueError: bad thing\n"
    failure = Failure.from_heartbeat(failing, "exception", "ValueError: bad thing", traceback)
    evidence = RunEvidence(run, 1, {0: heartbeat(0, 2), 1: failing}, {1: failure})
    assert evidence.make_verdict("exception", failure.error, failure).format_screen(run).splitlines() == [
        "---- digits: the run failed ----",
        "first failed   rank 1(2) on host h, pid 123",
        "where          forward of step 514",
        "cause          exception: ValueError: bad thing",
        '                 File "a.py", line 1, in f',
        "                   g(bad)",
        "victims        rank 0(2)",
        "next           the command   (resumes from step 500)",
    ]


def test_a_damaged_verdict_is_none(run: Path) -> None:
    verdict = write_verdict(run)
    assert read_verdict(run) == verdict
    (run / "diagnostics" / "verdict.json").write_text(json.dumps({**verdict.to_dict(), "victims": None}))
    assert read_verdict(run) is None
