"""The verdict: one for each attempt, as a file and as a screen."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dist_train.diagnostics.failure import Failure
from dist_train.diagnostics.root_cause import RunEvidence, judge, publish, read_verdict
from tests.unit.dist_train.diagnostics.evidence import beat, leave_beats, leave_failure

KEYS = {
    "rank", "world_size", "host", "pid", "phase", "step", "cause", "error", "victims", "next_command",
}  # fmt: skip


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


def test_a_damaged_verdict_is_none(run: Path) -> None:
    leave_beats(run, beat(0, 1))
    leave_failure(run, beat(0, 1), "exception")
    found = judge(run)
    assert found is not None
    publish(run, found)
    (run / "diagnostics" / "verdict.json").write_text(json.dumps({**found.to_dict(), "victims": None}))
    assert read_verdict(run) is None
