"""The jobs that have worked on a run, as `jobs/` of its directory remembers them.

jobs/N/job.json    one submission by `dist-train submit`, beside its command.sh; of an array trials/T for each task
jobs/starts.jsonl  a line for each start of a job's script, however it was submitted
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dist_train.run_dir import RunDir
from launch.sweeps.sweep_dir import find_trial

STARTS = "starts.jsonl"
JOB = re.compile(r"\d+(_\d+)?")
"""A job as users and Slurm write it, or a task of a job array."""


@dataclass(frozen=True)
class SubmittedJob:
    job_id: str
    """As `sbatch` printed it; `12_3` where the run is trial 3 of a sweep that was submitted as the array 12."""
    time: datetime
    command: str
    """What a user has given to submit it, and gives again to go on."""
    directory: Path
    """`jobs/N`."""

    @property
    def output(self) -> Path:
        """File that it prints to."""
        return self.directory.parent / f"slurm-{self.job_id}.out"

    def has_task(self, number: int) -> bool:
        """Whether it is a job array with this task."""
        return (self.directory / "trials" / str(number)).is_file()


@dataclass(frozen=True)
class JobStart:
    """One start of a job, as it stands in `jobs/starts.jsonl`."""

    job_id: str
    """`SLURM_JOB_ID`."""
    restart: int
    """How often Slurm has started the job before."""
    step: int
    """Step of the run's newest checkpoint at the start; 0 where there is none."""
    host: str
    time: str
    """UTC."""
    output: str | None
    """File that the job prints to."""
    attempt: int = 0
    """How often the run had been trained by then; a start that comes to training adds one."""


@dataclass(frozen=True)
class JobHistory:
    """Submissions and starts of one run, the oldest first."""

    submissions: tuple[SubmittedJob, ...]
    starts: tuple[JobStart, ...]

    @classmethod
    def read(cls, run: Path) -> "JobHistory":
        """What is known of a run's jobs; nothing where there were none."""
        return cls((*_read_tasks(run), *read_submissions(run)), tuple(read_starts(RunDir(run))))

    @property
    def job_ids(self) -> list[str]:
        """Each once; a task of an array may be there under both of its names, `12_3` and its `SLURM_JOB_ID`."""
        ids = [each.job_id for each in self.submissions] + [each.job_id for each in self.starts]
        return [each for each in dict.fromkeys(ids) if JOB.fullmatch(each)]

    @property
    def newest(self) -> datetime | None:
        """When a job was last submitted or started."""
        times = [each.time for each in self.submissions] + [parse_time(each.time) for each in self.starts]
        return max((time for time in times if time), default=None)

    def restarts(self, job_id: str) -> int:
        """How often Slurm has started a job anew."""
        return max((start.restart for start in self.starts if start.job_id == job_id), default=0)


def read_submissions(directory: Path) -> list[SubmittedJob]:
    """The submissions of a run, or of a sweep, the oldest first; without those that are damaged."""
    found = [_read_submission(path) for path in RunDir(directory).jobs.glob("*/job.json")]
    return sorted((each for each in found if each), key=lambda each: (each.time, each.directory))


def read_starts(run: RunDir) -> list[JobStart]:
    """The starts of all jobs of a run, the oldest first; without lines that are cut short."""
    path = run.jobs / STARTS
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return list(_parse_starts(texts))


def parse_time(text: Any) -> datetime | None:
    """The time that a text in ISO's format means, in UTC where it names no zone; None where it is none."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _read_tasks(run: Path) -> list[SubmittedJob]:
    """The tasks of job arrays that were to train a run, if it is a trial of a sweep."""
    if (trial := find_trial(run)) is None:
        return []
    arrays = [array for array in read_submissions(trial.sweep) if array.has_task(trial.number)]
    return [replace(array, job_id=f"{array.job_id}_{trial.number}") for array in arrays]


def _read_submission(path: Path) -> SubmittedJob | None:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        job_id, time, command = str(said["job_id"]), parse_time(said["submitted"]), str(said["command"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return SubmittedJob(job_id, time, command, path.parent) if time else None


def _parse_starts(texts: list[str]) -> Iterator[JobStart]:
    for text in texts:
        try:
            yield JobStart(**json.loads(text))
        except (ValueError, TypeError):
            continue
