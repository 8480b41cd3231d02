"""What the files of a run and Slurm say together: one state out of both."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from launch.runs.history import parse_time
from launch.slurm.client import Job

State = Literal[
    "queued", "starting", "running", "ending", "done", "preempted", "failed", "dead", "cancelled", "timed out",
    "node failed", "unknown", "not begun",
]  # fmt: skip
"""`ending`: its ranks leave or have left, and what has started them is about to end too, or to start them anew. `dead`:
ended without a word, as by SIGKILL. `unknown`: a job was submitted, and Slurm can't be asked of it."""
ACTIVE: tuple[State, ...] = ("queued", "starting", "running", "ending")
"""It trains, or is going to without anybody's doing."""

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
    status: Mapping[str, Any],
    job: Job | None = None,
    newest: datetime | None = None,
    *,
    is_gone: bool = False,
    is_alive: bool = False,
) -> State:
    """The state of a run.

    Args:
        status: content of `status.json` as `RunDir.read_status` has it, empty where there is none.
        job: what Slurm says of the run's newest job; None where there is none, or Slurm can't be asked.
        newest: when a job was last submitted or started; None: never.
        is_gone: there was a job, and Slurm, which was asked, does not know it any more.
        is_alive: whether the run's launcher, or its rank 0, is a process of this machine now.
    """
    said = _read_state(status, newest)
    if job is not None and job.state in _WAITING:
        return "queued"
    if job is not None and not job.is_over:
        return _determine_while_job_runs(job, said if status.get("job_id") == job.number else None)
    if is_alive and said != "running" and said != "done":
        return "ending" if said else "starting"
    if said is None:
        return _determine_from_job(job, is_gone=is_gone, is_known=newest is not None)
    if job is not None and status.get("job_id") == job.number and said not in ("done", "failed"):
        return _ENDINGS.get(job.state) or _mark_dead(said)
    return _mark_dead(said) if is_gone and status.get("job_id") else said


def _read_state(status: Mapping[str, Any], newest: datetime | None) -> State | None:
    """What `status.json` says of the newest start; None where it is of an earlier one."""
    updated = parse_time(status.get("updated"))
    is_earlier = updated is not None and newest is not None and updated < newest
    return None if is_earlier else status.get("state")


def _determine_while_job_runs(job: Job, said: State | None) -> State:
    if said != "done" and (job.state == "COMPLETING" or said in ("preempted", "failed")):
        return "ending"
    return "starting" if said in (None, "dead") else said  # dead: its ranks are started anew in place


def _determine_from_job(job: Job | None, *, is_gone: bool, is_known: bool) -> State:
    """The state of a start of which the run's own files say nothing."""
    if job is not None:
        return _ENDINGS.get(job.state, "failed")
    if is_gone:
        return "failed"
    return "unknown" if is_known else "not begun"


def _mark_dead(said: State) -> State:
    return "dead" if said == "running" else said
