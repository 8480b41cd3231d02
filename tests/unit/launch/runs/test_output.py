"""The output of a run: its file, its last lines, and following it across jobs."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch import cli
from launch.runs import output as run_output
from tests.unit.launch.command import run_command
from tests.unit.launch.run_files import leave_job, leave_run, leave_start, set_status

pytestmark = pytest.mark.usefixtures("runs_dir")


def test_rank_0_of_a_local_run(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    leave_run("runs/a")
    assert cli.main(["logs", "runs/a"]) == 0
    assert capsysbinary.readouterr().out == b"".join(b"line %d\n" % number for number in range(30))


@pytest.mark.parametrize(("text", "expected"), [("a\nb\nc\n", "b\nc\n"), ("a\nb\nc", "b\nc"), ("a", "a"), ("", "")])
def test_the_last_lines(capfd: pytest.CaptureFixture[str], text: str, expected: str) -> None:
    (leave_run("runs/a") / "logs" / "rank_0.log").write_text(text)
    assert run_command(capfd, "logs", "runs/a", "--lines", 2) == (0, expected)
    assert run_command(capfd, "logs", "runs/a", "--lines", 0) == (0, "")


def test_a_rank_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    run = leave_run("runs/a")
    (run / "logs" / "rank_10.log").write_text("of ten\n")
    assert run_command(capfd, "logs", run, "--rank", 10) == (0, "of ten\n")
    for more in ([], ["-f"]):
        code, output = run_command(capfd, "logs", run, "--rank", 3, *more)
        assert (code, "rank 3 has no log; there are logs of the ranks 0, 10" in output) == (2, True)


def test_the_output_of_the_newest_job(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = leave_run("runs/a", job_id="12")
    leave_start(run, "12", tmp_path / "by hand.out")
    code, output = run_command(capfd, "logs", run)
    assert (code, "by hand.out: does not exist. The run is done" in output) == (2, True)
    (tmp_path / "by hand.out").write_text("by hand\n")
    assert run_command(capfd, "logs", run) == (0, "by hand\n")
    assert run_command(capfd, "logs", run, "--rank", 0, "--lines", 1) == (0, "line 29\n")
    leave_start(run, "13")
    (run / "jobs" / "slurm-13.out").write_text("submitted\n")
    assert run_command(capfd, "logs", run) == (0, "submitted\n")


def test_a_local_start_after_a_job_counts(capfd: pytest.CaptureFixture[str]) -> None:
    run = leave_run("runs/a")
    leave_start(run, "12", when="2029-01-01T10:00:00+00:00")
    assert run_command(capfd, "logs", run, "--lines", 1) == (0, "line 29\n")


def test_following_a_run_that_is_over_ends(capfd: pytest.CaptureFixture[str]) -> None:
    code, output = run_command(capfd, "logs", leave_run("runs/a"), "-f")
    assert (code, output.splitlines()) == (0, [f"line {number}" for number in range(10, 30)])


def test_following_goes_on_where_the_next_job_prints(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The events happen in the pauses of `logs -f`."""
    run = leave_run("runs/a", "running", job_id="12")
    leave_job(run, 1, "12", when="2029-01-01T10:00:00+00:00")
    output, other = run / "jobs" / "slurm-12.out", run / "jobs" / "slurm-13.out"
    later = "2031-01-01T10:00:00+00:00"

    def begin() -> None:
        output.write_text("first\n")
        leave_start(run, "12", output.absolute())

    def begin_next() -> None:
        with output.open("a") as file:
            file.write("last\n")
        leave_start(run, "13", when="2030-06-01T10:00:00+00:00")
        other.write_text("next\n")
        set_status(run, job_id="13", updated=later)

    happen(monkeypatch, begin, begin_next, lambda: set_status(run, state="done"))
    code, printed = run_command(capfd, "logs", run, "-f")
    assert (code, printed.splitlines()[:3]) == (0, ["first", "last", "next"])
    assert "no output yet" in printed


def happen(monkeypatch: pytest.MonkeyPatch, *events: Callable[[], None]) -> None:
    """Call one event in each pause of `logs -f`; the state is checked after each pause."""
    left = list(events)
    monkeypatch.setattr(run_output, "POLL_FILES", run_output.POLL_OUTPUT / 2)
    monkeypatch.setattr(run_output, "POLL_SLURM", run_output.POLL_OUTPUT / 2)
    sleep = time.sleep

    def pause(seconds: float) -> None:
        sleep(seconds)
        if left:
            left.pop(0)()

    monkeypatch.setattr(time, "sleep", pause)
