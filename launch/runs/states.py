"""Determine the state of a run from its files and its Slurm job."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from dist_train.run_dir import Status
from launch.runs.history import parse_time
from launch.slurm.client import Job

State = Literal[
    "queued", "starting", "running", "ending", "done", "preempted", "failed", "dead", "cancelled", "timed out",
    "node failed", "unknown", "not begun",
]  # fmt: skip
"""`ending`: the ranks exit or have exited, and the launcher is about to end or to restart them. `dead`: ended without
writing its status, for example by SIGKILL. `unknown`: `status.json` is gone or can't be read, or a job was submitted
and Slurm is not available."""
ACTIVE: tuple[State, ...] = ("queued", "starting", "running", "ending")
"""States of a run that trains, or will without a further command."""

_WAITING = ("PENDING", "REQUEUED")
_ENDINGS: Mapping[str, State] = {
    "CANCELLED": "cancelled",
    "TIMEOUT": "timed out",
    "DEADLINE": "timed out",
    "NODE_FAIL": "node failed",
    "BOOT_FAIL": "node failed",
    "PREEMPTED": "preempted",
}


def determine_state(
    status: Status,
    job: Job | None = None,
    newest: datetime | None = None,
    *,
    is_gone: bool = False,
    is_alive: bool = False,
) -> State:
    """Return the state of a run.

    Args:
        status: `status.json`, as `RunDir.read_status` returns it; empty without one.
        job: the newest job of the run; None if there is none or Slurm is not available.
        newest: time of the last submission or start of a job; None: never.
        is_gone: there was a job, and Slurm does not know it any more.
        is_alive: the launcher or rank 0 runs on this machine.
    """
    written = _read_state(status, newest)
    if job is not None and job.state in _WAITING:
        return "queued"
    if job is not None and not job.is_over:
        return _determine_while_job_runs(job, written if status.get("job_id") == job.number else None)
    if is_alive and written != "running" and written != "done":
        return "ending" if written else "starting"
    if written is None:
        return _determine_from_job(job, is_gone=is_gone, is_known=newest is not None)
    if job is not None and status.get("job_id") == job.number and written not in ("done", "failed"):
        return _ENDINGS.get(job.state) or _mark_dead(written)
    return _mark_dead(written) if is_gone and status.get("job_id") else written


def _read_state(status: Status, newest: datetime | None) -> State | None:
    """Return the state in `status.json`; None if it is older than the newest job."""
    updated = parse_time(status.get("updated"))
    is_earlier = updated is not None and newest is not None and updated < newest
    return None if is_earlier else status.get("state")


def _determine_while_job_runs(job: Job, written: State | None) -> State:
    if written != "done" and (job.state == "COMPLETING" or written in ("preempted", "failed")):
        return "ending"
    return "starting" if written in (None, "dead") else written  # dead: its ranks are restarted in place


def _determine_from_job(job: Job | None, *, is_gone: bool, is_known: bool) -> State:
    """Return the state of a start that has written no `status.json`."""
    if job is not None:
        return _ENDINGS.get(job.state, "failed")
    if is_gone:
        return "failed"
    return "unknown" if is_known else "not begun"


def _mark_dead(written: State) -> State:
    return "dead" if written == "running" else written
