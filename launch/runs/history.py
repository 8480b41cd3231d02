"""Read the Slurm jobs of a run from `jobs/` of its directory.

jobs/N/job.json    a submission by `dist-train submit`, next to command.sh; trials/T for each task of an array
jobs/starts.jsonl  a line for each start of a job, also of jobs submitted by hand
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dist_train.run_dir import RunDir
from dist_train.system.read_file import find_files, is_file, parse_record, read_bytes, read_object
from launch.sweeps.sweep_dir import find_trial

STARTS = "starts.jsonl"
JOB = re.compile(r"[0-9]{1,18}(_[0-9]{1,18})?")
"""The id of a job, or of a task of a job array."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job that `dist-train submit` or `dist-train sweep` has queued, from `jobs/N/job.json`."""

    job_id: str
    """The id printed by `sbatch`; `12_3` for trial 3 of a sweep submitted as array 12."""
    time: datetime
    command: str
    """The command that submitted it, which also resumes the run."""
    directory: Path
    """`jobs/N`."""

    @property
    def output(self) -> Path:
        """Path of its output."""
        return self.directory.parent / f"slurm-{self.job_id}.out"

    def has_task(self, number: int) -> bool:
        """Return whether it is a job array with this task."""
        return is_file(self.directory / "trials" / str(number))


@dataclass(frozen=True)
class JobStart:
    """One start of a job, a line of `jobs/starts.jsonl`."""

    job_id: str
    """`SLURM_JOB_ID`."""
    restart: int
    """Number of earlier starts of the job."""
    step: int
    """Step of the newest checkpoint at the start; 0 without a checkpoint."""
    host: str
    time: str
    """UTC."""
    output: str | None
    """Path of the output of the job."""
    attempt: int = 0
    """Number of attempts before this start; a start that reaches the training adds one."""


@dataclass(frozen=True)
class JobHistory:
    """The submissions and starts of one run, the oldest first."""

    submissions: tuple[SubmittedJob, ...]
    starts: tuple[JobStart, ...]

    @classmethod
    def read(cls, run: Path) -> "JobHistory":
        """Read the history of a run; empty if it had no jobs."""
        return cls((*_read_tasks(run), *read_submissions(run)), tuple(read_starts(RunDir(run))))

    @property
    def job_ids(self) -> list[str]:
        """The ids without duplicates; a task of an array may have two, `12_3` and its `SLURM_JOB_ID`."""
        ids = [each.job_id for each in self.submissions] + [each.job_id for each in self.starts]
        return [each for each in dict.fromkeys(ids) if JOB.fullmatch(each)]

    @property
    def newest(self) -> datetime | None:
        """Time of the last submission or start."""
        times = [each.time for each in self.submissions] + [parse_time(each.time) for each in self.starts]
        return max((time for time in times if time), default=None)


def read_submissions(directory: Path) -> list[SubmittedJob]:
    """Read the submissions of a run or a sweep, the oldest first; skip damaged files."""
    found = [_read_submission(path / "job.json") for path in find_files(RunDir(directory).jobs)]
    return sorted((each for each in found if each), key=lambda each: (each.time, each.directory))


def read_starts(run: RunDir) -> list[JobStart]:
    """Read the starts of all jobs of a run, the oldest first; skip damaged lines."""
    try:
        lines = read_bytes(run.jobs / STARTS).splitlines()
    except OSError:
        return []
    return list(_parse_starts(lines))


def parse_time(text: Any) -> datetime | None:
    """Parse a time in ISO format, in UTC if it has no zone; return None if it is not a time."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    # Near the ends of the calendar a time has no local form.
    return (found if found.tzinfo else found.replace(tzinfo=UTC)) if 1970 <= found.year < 9999 else None


def _read_tasks(run: Path) -> list[SubmittedJob]:
    """Return the tasks of job arrays that train a run, if it is a trial of a sweep."""
    if (trial := find_trial(run)) is None:
        return []
    arrays = [array for array in read_submissions(trial.sweep) if array.has_task(trial.number)]
    return [replace(array, job_id=f"{array.job_id}_{trial.number}") for array in arrays]


def _read_submission(path: Path) -> SubmittedJob | None:
    try:
        content = read_object(path)
        job_id, time, command = str(content["job_id"]), parse_time(content["submitted"]), str(content["command"])
    except (OSError, ValueError, KeyError):
        return None
    return SubmittedJob(job_id, time, command, path.parent) if time else None


def _parse_starts(lines: list[bytes]) -> Iterator[JobStart]:
    for line in lines:
        with suppress(ValueError):
            yield parse_record(JobStart, line)
