"""The directory of a run: checks, lock, renaming of an earlier run, and status."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir, write_atomically
from dist_train.system import lock_file
from tests.conftest import ROOT


@contextmanager
def claimed(path: Path, fresh_start: bool = False) -> Iterator[tuple[RunDir, Path | None]]:
    run = RunDir(path)
    aside = run.claim(fresh_start)
    yield run, aside
    run.release()


def test_a_status_has_state_step_and_process(tmp_path: Path) -> None:
    with claimed(tmp_path / "runs" / "digits") as (run, _):
        run.write_status("running", 0, 0, resumable=True)
        run.write_status("preempted", 12, 3, resumable=True, signal="SIGTERM")
    status = json.loads(run.status.read_text())
    assert (status["state"], status["step"], status["epoch"], status["signal"]) == ("preempted", 12, 3, "SIGTERM")
    assert status["pid"] == os.getpid()
    assert status["host"]
    assert status["updated"].endswith("+00:00")
    assert (status["attempt"], status["restarts"], status["job_id"], status["resumable"]) == (1, 0, None, True)


@pytest.fixture(autouse=True)
def outside_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def test_a_status_names_the_job_and_counts_restarts_and_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    for attempt in (1, 2, 3):
        if attempt == 3:
            monkeypatch.setenv("SLURM_JOB_ID", "4712")
            (tmp_path / "run" / "run.lock").write_text("")  # as a power cut may leave it
        with claimed(tmp_path / "run") as (run, _):
            run.write_status("done", 1, 1, resumable=False)
        status = run.read_status()
        assert status is not None
        job = "4712" if attempt == 3 else "4711"
        assert [status[name] for name in ("attempt", "restarts", "job_id", "resumable")] == [attempt, 2, job, False]
        holder = json.loads(run.lock.read_text())
        assert holder == {"host": status["host"], "pid": os.getpid(), "job_id": job, "attempt": attempt}
    assert "attempt" in run.lock.read_text()


def test_a_new_run_is_the_first_attempt(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path / "run", fresh_start=True) as (run, _):
            assert run.attempt == 1


def test_a_process_that_has_lost_the_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks(monkeypatch)
    first, second = RunDir(tmp_path / "run"), RunDir(tmp_path / "run")
    first.claim(fresh_start=False)
    first.check_attempt()
    second.claim(fresh_start=False)
    second.check_attempt()
    with pytest.raises(ConfigError, match=r"taken over by host .*, pid \d+, attempt 2; this process .*attempt 1\)"):
        first.check_attempt()
    second.lock.unlink()
    with pytest.raises(ConfigError, match=r"taken over by a process that has moved its run\.lock"):
        second.check_attempt()
    for run in (first, second):
        run.release()


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make flock fail as on a network file system without locks."""

    def flock(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_killed_writer_is_recognised_as_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path / "run")
    assert run.read_status() is None
    with holding(run.path) as holder:
        assert state_of(run) == "running"
        holder.kill()
    deadline = time.monotonic() + 10
    while state_of(run) == "running":  # the worker shares the lock, and takes a moment to end
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert state_of(run) == "dead"
    with monkeypatch.context() as patch:
        no_locks(patch)
        assert state_of(run) == "running", "unknown without locks or on another host"
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "another")
        assert state_of(run) == "running", "unknown without locks or on another host"
    with claimed(run.path) as (again, _):
        again.write_status("failed", 3, 0, resumable=True)
    assert state_of(run) == "failed"


def state_of(run: RunDir) -> Any:
    status = run.read_status()
    assert status is not None
    return status["state"]


def test_a_disk_that_takes_no_status_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write_text(path: Path, text: str, **_: Any) -> int:
        path.write_bytes(text.encode()[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with claimed(tmp_path / "run") as (run, _):
        run.write_status("running", 1, 0, resumable=True)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", write_text)
            for step in (2, 3):
                run.write_status("running", step, 0, resumable=True)
        assert [record.getMessage() for record in caplog.records] == [
            f"{run.status}: can't be written: No space left on device; the run continues"
        ]
        assert json.loads(run.status.read_text())["step"] == 1
        assert not list(run.path.glob(".status.json*"))
        run.write_status("running", 4, 0, resumable=True)
        assert json.loads(run.status.read_text())["step"] == 4


def test_a_claim_creates_missing_directories(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path / "runs" / "digits") as (run, aside):
            assert aside is None
            assert run.logs.is_dir()
            assert run.checkpoints.is_dir()


def test_an_earlier_run_is_moved_to_the_first_free_number(tmp_path: Path) -> None:
    for number in range(4):
        with claimed(tmp_path / "digits", fresh_start=True) as (run, aside):
            assert aside == (tmp_path / f"digits.old-{number}" if number else None)
            assert not run.config.exists()
            run.config.write_text(f"run {number + 1}")
    found = {path.parent.name: path.read_text() for path in tmp_path.glob("*.old-*/config.yaml")}
    assert found == {f"digits.old-{number}": f"run {number}" for number in (1, 2, 3)}


def test_a_link_to_a_run_is_moved_and_not_what_it_leads_to(tmp_path: Path) -> None:
    with claimed(tmp_path / "scratch"):
        pass
    (tmp_path / "digits").symlink_to(tmp_path / "scratch")
    with claimed(tmp_path / "digits", fresh_start=True) as (run, aside):
        assert aside == tmp_path / "digits.old-1"
        assert not run.path.is_symlink()
    assert (tmp_path / "digits.old-1").readlink() == tmp_path / "scratch"
    assert (tmp_path / "scratch" / "checkpoints").is_dir()


@contextmanager
def holding(path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Start a process that holds a run and has a forked worker."""
    hold = (
        "import os, sys, time; from dist_train.run_dir import RunDir\n"
        "from dist_train.system.process import die_with_parent\n"
        "run = RunDir(sys.argv[1]); run.claim(False); run.write_status('running', 1, 0, resumable=True)\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0: die_with_parent(parent); time.sleep(60)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "12"}
    command = [sys.executable, "-c", hold, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder


@pytest.mark.parametrize("fresh_start", [False, True])
def test_a_second_process_is_refused_by_the_name_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_start: bool
) -> None:
    monkeypatch.setattr(lock_file, "PATIENCE", 0.1)
    message = r"another process trains there: host .*, pid {}, job 12, attempt 1\. Wait"
    with holding(tmp_path / "run") as holder:
        for start in (RunDir.claim, RunDir.check_usable):
            with pytest.raises(ConfigError, match=message.format(holder.pid)):
                start(RunDir(tmp_path / "run"), fresh_start)
        holder.kill()
    with claimed(tmp_path / "run", fresh_start):  # the system has released the lock of the killed process
        pass
    assert (tmp_path / "run.old-1").exists() == fresh_start


@pytest.mark.parametrize(
    "name", ["config.yaml", "status.json", "metrics.jsonl", "env.json", "tb/events", "logs/log", "checkpoints/my.bin"]
)
def test_a_directory_with_files_of_the_same_names_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("the user's")
    for fresh_start in (False, True):
        with pytest.raises(ConfigError, match="contains files, but no run"):
            RunDir(tmp_path).check_usable(fresh_start)


def test_a_directory_with_other_files_is_used_and_not_moved(tmp_path: Path) -> None:
    (tmp_path / "slurm-12.out").write_text("the user's")
    RunDir(tmp_path).check_usable(fresh_start=False)
    with pytest.raises(ConfigError, match="contains files, but no run"):
        RunDir(tmp_path).check_usable(fresh_start=True)


def test_a_run_and_an_empty_directory_are_usable(tmp_path: Path) -> None:
    with claimed(tmp_path / "run"):
        pass
    (tmp_path / "empty").mkdir()
    for fresh_start in (False, True):
        RunDir(tmp_path / "run").check_usable(fresh_start)
        RunDir(tmp_path / "empty").check_usable(fresh_start)
    with claimed(tmp_path / "empty", fresh_start=True) as (_, aside):
        assert aside is None


def test_a_check_changes_nothing(tmp_path: Path) -> None:
    RunDir(tmp_path / "runs" / "digits").check_usable(fresh_start=False)
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path / "there") as (run, _):
        pass
    before = sorted(run.path.rglob("*"))
    run.check_usable(fresh_start=False)
    assert sorted(run.path.rglob("*")) == before


def test_a_relative_directory_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RunDir("runs/digits").check_usable(fresh_start=False)


@pytest.mark.parametrize("below", ["", "digits", "deep/digits"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("the user's")
    with pytest.raises(ConfigError, match=rf"^run\.dir {tmp_path / 'file' / below}: can't be written: Not a directory"):
        RunDir(tmp_path / "file" / below).check_usable(fresh_start=False)
    assert (tmp_path / "file").read_text() == "the user's"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that even root can't write")
def test_a_read_only_file_system_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^run\.dir /proc/digits: can't be written: .* \(/proc\)\. Set run\.dir"):
        RunDir("/proc/digits").check_usable(fresh_start=False)


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be written: File name too long"):
        RunDir(tmp_path / ("a" * 300)).check_usable(fresh_start=False)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "status.json", []
    write_atomically(path, "old")
    real = Path.replace

    def replace(source: Path, target: Path) -> Path:
        seen.append((path.read_text(), source.read_text()))
        return real(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(path, "neu und größer")
    assert seen == [("old", "neu und größer")]
    assert path.read_text(encoding="utf-8") == "neu und größer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_stop_before_the_claim_is_recorded_if_there_is_a_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.record_early_stop()
    assert not run.path.exists()
    run.jobs.mkdir(parents=True)  # a job was submitted
    run.record_early_stop()
    status = run.read_status()
    assert status is not None
    assert [status[name] for name in ("state", "step", "attempt", "resumable")] == ["preempted", 0, 0, True]
    with claimed(run.path) as (trained, _):
        assert trained.attempt == 1


def test_a_stop_before_the_claim_does_not_replace_the_status_of_others(tmp_path: Path) -> None:
    with claimed(tmp_path / "run") as (run, _):
        run.write_status("running", 5, 1, resumable=True)
        RunDir(run.path).record_early_stop()
        assert (run.read_status() or {})["state"] == "running"
    RunDir(run.path).record_early_stop()  # the process that has written `running` has ended
    status = run.read_status() or {}
    assert [status[name] for name in ("state", "step", "attempt")] == ["preempted", 5, 1]
    with claimed(run.path) as (run, _):
        run.write_status("done", 9, 1, resumable=False)
    run.record_early_stop()
    assert (run.read_status() or {})["state"] == "done"


def test_ranks_of_one_launcher_know_that_they_are_not_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the launcher does not count restarts, because ranks of another host were lost."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7-0")
    run = RunDir(tmp_path / "run")
    assert not run.was_begun_before_restart()
    for restarts in (0, 1, 2):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
        with claimed(run.path) as (run, _):
            run.write_status("running", 1, 0, resumable=True)
        assert (run.read_status() or {})["restarts"] == restarts
        assert run.was_begun_before_restart()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "8-0")
    assert not run.was_begun_before_restart()


def test_an_early_stop_does_not_prevent_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun may have asked for it because another rank has failed."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7-0")
    run = RunDir(tmp_path / "run")
    run.jobs.mkdir(parents=True)
    run.record_early_stop()
    assert run.ended_before_restart() is None


def test_a_refusal_is_recorded_if_a_launcher_could_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path / "run")
    run.jobs.mkdir(parents=True)
    run.record_refusal("no data")
    assert run.read_status() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7-0")
    run.record_refusal("no data")
    status = run.read_status() or {}
    assert [status[name] for name in ("state", "resumable", "error")] == ["failed", False, "no data"]
    assert run.ended_before_restart() == "failed"
    with claimed(run.path) as (run, _):
        run.write_status("preempted", 5, 1, resumable=True)
    assert run.ended_before_restart() == "preempted"
    with claimed(run.path) as (run, _):
        run.write_status("failed", 5, 1, resumable=True)
    assert run.ended_before_restart() is None
