"""Find runs: by their directories, and by the Slurm jobs that they know."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir
from launch.runs.history import JOB, JobHistory, read_submissions
from launch.sweeps.sweep_dir import Trial, is_sweep, read_trials

_log = logging.getLogger(__name__)


RUNS = Path("runs")


def is_run(path: Path) -> bool:
    directory = RunDir(path)
    return any(each.exists() for each in (directory.status, directory.lock, directory.jobs)) and not is_sweep(path)


def find_runs(root: Path) -> list[Path]:
    """The directories of all runs right below another, and of the trials of sweeps there."""
    children = sorted(root.iterdir()) if root.is_dir() else []
    of_sweeps = [trial.path for child in children if is_sweep(child) for trial in list_trials(child)]
    return [child for child in (*children, *of_sweeps) if is_run(child)]


def list_trials(sweep: Path) -> list[Trial]:
    """The trials of a sweep; none, with a warning, where its list is damaged."""
    try:
        return read_trials(sweep)
    except ConfigError as error:
        _log.warning("%s", error)
        return []


def list_job_ids(path: Path) -> list[str]:
    """The jobs that the directory of a run knows, under all their names; one of them may only surround its training."""
    job = read_status(path).get("job_id")
    return [*JobHistory.read(path).job_ids, *([job] if job else [])]


def read_status(path: Path) -> Mapping[str, Any]:
    """The content of `status.json`; empty where there is none, or none that can be read."""
    try:
        status = RunDir(path).read_status() or {}
    except OSError as error:
        _log.warning("%s: can't be read: %s", path, error.strerror)
        return {}
    return status if isinstance(status.get("state"), str) and isinstance(status.get("step"), int) else {}


def find_directory(text: str) -> Path:
    """The directory that a user means by its path, or by the number of a job that it knows."""
    path = Path(text)
    return (find_by_job(text) or path) if JOB.fullmatch(text) and not path.exists() else path


def find_by_job(job: str) -> Path | None:
    """The run or the sweep below `runs/` whose directory knows a job; None where none does."""
    swept = [path for path in RUNS.glob("*") if is_sweep(path)]
    for sweep in swept:
        if job in [array.job_id for array in read_submissions(sweep)]:
            return sweep
    trials = [trial.path for sweep in swept for trial in list_trials(sweep)]
    return next((path for path in (*find_runs(RUNS), *trials) if job in list_job_ids(path)), None)
