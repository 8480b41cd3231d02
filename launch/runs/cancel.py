"""Stop runs: a job by scancel, a process of this machine by SIGTERM."""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from dist_train.errors import ConfigError, SlurmError
from launch.runs import snapshot
from launch.runs.format import summarize_run
from launch.runs.history import read_submissions
from launch.runs.snapshot import RunSnapshot
from launch.slurm import client
from launch.slurm.client import Job
from launch.sweeps import sweep_dir

LOOK, ASK = 0.2, 2.0  # seconds between two looks at a run that leaves: in its files, and of Slurm
PATIENCE = 3.0  # seconds in which a start that has just claimed its directory says who it is


def cancel_sweep(sweep: Path) -> list[RunSnapshot]:
    """The trials that are left to be stopped once what starts them is: job arrays, or a process of this machine."""
    for array in [each.job_id for each in read_submissions(sweep)] if client.is_available() else ():
        if any(not job.is_over for job in client.query_jobs([array]).values()):
            client.run("scancel", array)
            print(f"{sweep}: job array {array} is cancelled; the trials that train finish their step, save and leave")
    if (pid := sweep_dir.find_worker(sweep)) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        print(f"{sweep}: process {pid} is asked to begin no more of its trials")
    found = [run for run in snapshot.read_runs([trial.path for trial in sweep_dir.read_trials(sweep)]) if run.is_active]
    if not found:
        print(f"{sweep}: none of its trials waits or trains")
    return found


def cancel_run(run: RunSnapshot) -> None:
    """Ask a run for its end.

    Raises:
        ConfigError: it runs where this machine can't reach it.
        SlurmError: Slurm refuses, or is not here and would have to be asked.
    """
    if not run.is_active:
        print(f"{run.path}: is over: {summarize_run(run)}")
    elif run.active_jobs:
        for job in run.active_jobs:
            _cancel_job(run, job)
    else:
        pid = _find_process(run)
        with suppress(ProcessLookupError):  # it has just left
            os.kill(pid, signal.SIGTERM)
        print(f"{run.path}: process {pid} is asked to stop. {_explain_stop(run)}")


def _cancel_job(run: RunSnapshot, job: Job) -> None:
    if job.state != "COMPLETING":  # it is ending, perhaps because its array was cancelled
        client.run("scancel", job.id)
    began = _explain_stop(run) if job.state != "PENDING" else f"It waited{_at(run)}"
    print(f"{run.path}: job {job.id} is cancelled. {began}")


def _at(run: RunSnapshot) -> str:
    return f" at step {run.step:,}; go on later: {run.start_command}" if run.step and run.start_command else ""


def _explain_stop(run: RunSnapshot) -> str:
    go_on = f". Go on later: {run.start_command}" if run.start_command else ""
    return f"It finishes its step, saves and leaves; `dist-train status {run.path}` shows when{go_on}"


def _find_process(run: RunSnapshot) -> int:
    """The process to ask.

    Raises:
        ConfigError: there is none on this machine.
        SlurmError: only Slurm can end it, and is not here.
    """
    host, job = run.status.get("host"), run.status.get("job_id")
    deadline = time.monotonic() + PATIENCE
    while run.pid is None and host in (None, socket.gethostname()) and time.monotonic() < deadline:
        time.sleep(LOOK)
        run = snapshot.read_run(run.path)
    if run.pid is not None:
        return run.pid
    if job is not None:
        raise SlurmError(f"{run.path}: job {job} trains it; `scancel {job}` on a login node of its cluster stops it")
    if host != socket.gethostname():
        raise ConfigError(
            f"{run.path}: trains on host {host}, start {run.status.get('attempt')}: give this command there"
        )
    raise ConfigError(f"{run.path}: {summarize_run(run)}, and has no process here; `dist-train status` shows how it is")


def wait_until_stopped(run: RunSnapshot) -> RunSnapshot:
    """The run once it has left."""
    while run.is_active or run.pid is not None:
        time.sleep(ASK if run.active_jobs else LOOK)
        run = snapshot.read_runs([run.path])[0]
    return run
