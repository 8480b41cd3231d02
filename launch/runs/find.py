"""Find runs and sweeps by directory or by Slurm job."""

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
    """Return whether a directory is that of a run, and not of a sweep."""
    directory = RunDir(path)
    return any(each.exists() for each in (directory.status, directory.lock, directory.jobs)) and not is_sweep(path)


def find_runs(root: Path) -> list[Path]:
    """Return the directories of all runs in `root`, including the trials of its sweeps."""
    children = sorted(root.iterdir()) if root.is_dir() else []
    of_sweeps = [trial.path for child in children if is_sweep(child) for trial in list_trials(child)]
    return [child for child in (*children, *of_sweeps) if is_run(child)]


def list_trials(sweep: Path) -> list[Trial]:
    """Return the trials of a sweep; warn and return none if its `sweep.json` is damaged."""
    try:
        return read_trials(sweep)
    except ConfigError as error:
        _log.warning("%s", error)
        return []


def list_job_ids(path: Path) -> list[str]:
    """Return the ids of all jobs of a run, including an interactive job in which it was started."""
    job = read_status(path).get("job_id")
    return [*JobHistory.read(path).job_ids, *([job] if job else [])]


def read_status(path: Path) -> Mapping[str, Any]:
    """Return the content of `status.json`; empty if it is missing or damaged."""
    try:
        status = RunDir(path).read_status() or {}
    except OSError as error:
        _log.warning("%s: can't be read: %s", path, error.strerror)
        return {}
    return status if isinstance(status.get("state"), str) and isinstance(status.get("step"), int) else {}


def find_directory(text: str) -> Path:
    """Return the directory of a run or a sweep, given its path or the id of one of its jobs."""
    path = Path(text)
    return (find_by_job(text) or path) if JOB.fullmatch(text) and not path.exists() else path


def find_by_job(job: str) -> Path | None:
    """Return the directory in `runs/` of the run or sweep of a job; None if there is none."""
    sweeps = [path for path in RUNS.glob("*") if is_sweep(path)]
    for sweep in sweeps:
        if job in [array.job_id for array in read_submissions(sweep)]:
            return sweep
    trials = [trial.path for sweep in sweeps for trial in list_trials(sweep)]
    return next((path for path in (*find_runs(RUNS), *trials) if job in list_job_ids(path)), None)
