"""Stop runs: Slurm jobs by scancel, processes of this machine by SIGTERM."""

import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dist_train.errors import ConfigError, SlurmError
from dist_train.system.escape import escape
from dist_train.system.process import read_process_stat, signal_process
from launch.runs import snapshot
from launch.runs.format import MAX_LINE, summarize_run
from launch.runs.history import read_submissions
from launch.runs.snapshot import RunSnapshot
from launch.slurm import client
from launch.slurm.client import Job
from launch.sweeps import sweep_dir

POLL_FILES, POLL_SLURM = 0.2, 2.0  # seconds between two checks of a run's state, in its files and with squeue
START_SECONDS = 3.0  # within which a start that has locked the run directory writes its process id


def cancel_sweep(sweep: Path) -> list[RunSnapshot]:
    """Stop the job arrays of a sweep, or its process on this machine; return the trials that are still active."""
    for array in [each.job_id for each in read_submissions(sweep)] if client.is_available() else ():
        if any(not job.is_over for job in client.query_jobs([array]).values()):
            client.run("scancel", array)
            _print_line(f"{sweep}: job array {array} is cancelled; running trials finish their step, save and exit")
    if (pid := sweep_dir.find_worker(sweep)) is not None:
        _stop_process(pid, sweep, lambda: sweep_dir.find_worker(sweep) == pid)
        _print_line(f"{sweep}: process {pid} is asked to start no more trials")
    found = [run for run in snapshot.read_runs([trial.path for trial in sweep_dir.read_trials(sweep)]) if run.is_active]
    if not found:
        _print_line(f"{sweep}: no trial is queued or running")
    return found


def cancel_run(run: RunSnapshot) -> None:
    """Ask a run to save and exit, and print what happens next.

    Raises:
        ConfigError: it runs on another machine.
        SlurmError: Slurm refuses, or only Slurm can stop it and is not available here.
    """
    if not run.is_active:
        _print_line(f"{run.path}: has ended: {summarize_run(run)}")
    elif run.active_jobs:
        for job in run.active_jobs:
            _cancel_job(run, job)
    else:
        pid = _find_process(run)
        _stop_process(pid, run.path, lambda: snapshot.read_run(run.path).pid == pid)
        _print_line(f"{run.path}: process {pid} is asked to stop. {_explain_stop(run)}")


def _cancel_job(run: RunSnapshot, job: Job) -> None:
    if job.state != "COMPLETING":  # such a job is ending already
        client.run("scancel", job.id)
    what = _explain_stop(run) if job.state != "PENDING" else f"It was queued{_format_resume(run)}"
    _print_line(f"{run.path}: job {job.id} is cancelled. {what}")


def _print_line(line: str) -> None:
    print(escape(line, MAX_LINE))


def _stop_process(pid: int, path: Path, is_right_process: Callable[[], bool]) -> None:
    """Send SIGTERM to a process that trains; nothing if it has just exited.

    Raises:
        ConfigError: it is another program, which the files of the run name wrongly, or of another user.
    """
    with suppress(ProcessLookupError, FileNotFoundError):
        if not re.search(rb"dist[_-]train|launch", _read_command(pid)):
            raise ConfigError(f"{escape(path)}: its files name process {pid}, which does not train: it was left alone")
        try:
            signal_process(pid, signal.SIGTERM, is_right_process)
        except PermissionError:
            raise ConfigError(f"{escape(path)}: process {pid} belongs to another user, who has to stop it") from None


def _read_command(pid: int) -> bytes:
    """Return the command line of a process, which has none while it replaces its program by another.

    Raises:
        ProcessLookupError, FileNotFoundError: it has exited.
    """
    deadline = time.monotonic() + START_SECONDS
    while not (command := Path(f"/proc/{pid}/cmdline").read_bytes()) and time.monotonic() < deadline:
        stat = read_process_stat(pid)
        if stat is None or stat[0] in "ZX":
            raise ProcessLookupError
        time.sleep(POLL_FILES)
    return command


def _explain_stop(run: RunSnapshot) -> str:
    return f"It finishes its step, saves and exits; watch it with `dist-train status {run.path}`{_format_resume(run)}"


def _format_resume(run: RunSnapshot) -> str:
    return f". Resume it later: {run.start_command}" if run.start_command else ""


def _find_process(run: RunSnapshot) -> int:
    """Return the id of the process to stop.

    Raises:
        ConfigError: it is not on this machine.
        SlurmError: only Slurm can stop it, and it is not available here.
    """
    host, job = run.status.get("host"), run.status.get("job_id")
    deadline = time.monotonic() + START_SECONDS
    while run.pid is None and host in (None, socket.gethostname()) and time.monotonic() < deadline:
        time.sleep(POLL_FILES)
        run = snapshot.read_run(run.path)
    if run.pid is not None:
        return run.pid
    if job is not None:
        raise SlurmError(
            escape(f"{run.path}: is trained by job {job}; stop it with `scancel {job}` on a login node of its cluster")
        )
    if host != socket.gethostname():
        where = f"{run.path}: runs on host {host}, start {run.status.get('attempt')}: run this command there"
    else:
        where = f"{run.path}: {summarize_run(run)}, but has no process on this machine; see `dist-train status`"
    raise ConfigError(escape(where, MAX_LINE))


def wait_until_stopped(run: RunSnapshot) -> RunSnapshot:
    """Wait until a run has stopped, and return its snapshot."""
    while run.is_active or run.pid is not None:
        time.sleep(POLL_SLURM if run.active_jobs else POLL_FILES)
        run = snapshot.read_runs([run.path])[0]
    return run
