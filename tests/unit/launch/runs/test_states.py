"""The state of a run, for every pair of its own state and that of its Slurm job."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dist_train.run_dir import Status
from launch.runs.states import State, determine_state
from launch.slurm.client import Job

SUBMITTED = datetime(2030, 1, 1, tzinfo=UTC)
EARLIER, LATER = SUBMITTED - timedelta(hours=1), SUBMITTED + timedelta(hours=1)


def status(state: Any, job_id: str | None = "12", updated: datetime = LATER) -> Status:
    if state is None:
        return {}
    return {"state": state, "step": 5, "job_id": job_id, "updated": updated.isoformat(timespec="seconds")}


def job(state: str) -> Job:
    return Job("12", "12", state, "Priority", "n1", "N/A", "1:00", "digits")


@pytest.mark.parametrize(
    ("message", "slurm", "expected"),
    [
        (None, "PENDING", "queued"),
        ("preempted", "PENDING", "queued"),  # it has queued itself again
        ("running", "PENDING", "queued"),  # its node was lost, and Slurm has queued it again
        ("running", "REQUEUED", "queued"),
        (None, "CONFIGURING", "starting"),
        (None, "RUNNING", "starting"),
        ("running", "RUNNING", "running"),
        ("running", "SUSPENDED", "running"),
        ("dead", "RUNNING", "starting"),
        ("failed", "RUNNING", "ending"),  # or its ranks are about to be restarted in place
        ("preempted", "RUNNING", "ending"),  # or it is about to queue itself again
        ("preempted", "COMPLETING", "ending"),
        ("running", "COMPLETING", "ending"),
        (None, "COMPLETING", "ending"),
        ("done", "COMPLETING", "done"),
        ("done", "RUNNING", "done"),
        ("done", "COMPLETED", "done"),
        ("done", "CANCELLED", "done"),
        ("failed", "FAILED", "failed"),
        ("failed", "NODE_FAIL", "failed"),
        ("preempted", "FAILED", "preempted"),  # torchrun makes a failure of every stop
        ("preempted", "PREEMPTED", "preempted"),
        ("preempted", "CANCELLED", "cancelled"),
        ("preempted", "TIMEOUT", "timed out"),
        ("running", "CANCELLED", "cancelled"),
        ("running", "TIMEOUT", "timed out"),
        ("running", "NODE_FAIL", "node failed"),
        ("running", "FAILED", "dead"),
        ("running", "OUT_OF_MEMORY", "dead"),
        (None, "FAILED", "failed"),
        (None, "COMPLETED", "failed"),  # it has left without a word of a training
        (None, "CANCELLED", "cancelled"),
        (None, "TIMEOUT", "timed out"),
    ],
)
def test_the_newest_start_was_that_of_the_job(message: str | None, slurm: str, expected: State) -> None:
    assert determine_state(status(message), job(slurm), SUBMITTED) == expected


@pytest.mark.parametrize(
    ("slurm", "expected"),
    [("PENDING", "queued"), ("RUNNING", "starting"), ("FAILED", "failed"), ("CANCELLED", "cancelled")],
)
@pytest.mark.parametrize("message", ["running", "done", "preempted", "failed"])
@pytest.mark.parametrize("earlier_job", ["12", "11", None])
def test_what_an_earlier_start_has_said_counts_no_more(
    message: str, earlier_job: str | None, slurm: str, expected: State
) -> None:
    assert determine_state(status(message, earlier_job, EARLIER), job(slurm), SUBMITTED) == expected


@pytest.mark.parametrize("message", ["running", "done", "preempted", "failed", "dead"])
def test_a_start_by_hand_after_the_job_counts(message: State) -> None:
    assert determine_state(status(message, None), job("FAILED"), SUBMITTED) == message
    assert determine_state(status(message, None), None, SUBMITTED, is_gone=True) == message


@pytest.mark.parametrize(
    ("message", "expected"),
    [("running", "dead"), ("preempted", "preempted"), ("done", "done"), ("failed", "failed"), (None, "failed")],
)
def test_a_job_that_slurm_has_forgotten_is_over(message: str | None, expected: State) -> None:
    assert determine_state(status(message), None, SUBMITTED, is_gone=True) == expected


@pytest.mark.parametrize(
    ("message", "expected"), [("running", "running"), ("preempted", "preempted"), ("done", "done"), (None, "unknown")]
)
def test_where_slurm_cannot_be_asked_the_files_count(message: str | None, expected: State) -> None:
    assert determine_state(status(message), None, SUBMITTED) == expected


@pytest.mark.parametrize(
    ("message", "is_alive", "expected"),
    [
        (None, False, "not begun"),
        (None, True, "starting"),
        ("running", True, "running"),
        ("dead", False, "dead"),
        ("dead", True, "ending"),  # or lost ranks are about to be restarted in place
        ("failed", True, "ending"),
        ("preempted", True, "ending"),
        ("preempted", False, "preempted"),
        ("done", True, "done"),
    ],
)
def test_a_run_without_jobs(message: str | None, is_alive: bool, expected: State) -> None:
    assert determine_state(status(message, None), is_alive=is_alive) == expected
