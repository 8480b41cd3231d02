"""Find runs and sweeps by directory or by Slurm job."""

import logging
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir, Status
from dist_train.system.escape import escape
from dist_train.system.read_file import check_types, explain, find_files, list_directory, may_exist, read_object
from launch.runs.history import JOB, JobHistory, read_submissions
from launch.sweeps.sweep_dir import Trial, is_sweep, read_trials

_log = logging.getLogger(__name__)
RUNS = Path("runs")


def is_run(path: Path) -> bool:
    """Return whether a directory is that of a run, or can't be read, and is not a sweep."""
    directory = RunDir(path)
    return any(may_exist(each) for each in (directory.status, directory.lock, directory.jobs)) and not is_sweep(path)


def find_runs(root: Path) -> list[Path]:
    """Return the directories of all runs in `root`, including the trials of its sweeps.

    Raises:
        ConfigError: `root` can't be listed.
    """
    try:
        children = list_directory(root)
    except OSError as error:
        raise ConfigError(f"{escape(root)}: can't be read: {explain(error)}") from None
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
    job = read_status(path)[0].get("job_id")
    return [*JobHistory.read(path).job_ids, *([job] if job else [])]


def read_status(path: Path) -> tuple[Status, str | None]:
    """Return the content of `status.json`, empty if it is missing or can't be read, and why it can't."""
    directory = RunDir(path)
    try:
        found = directory.read_status()
        if found is None:
            if may_exist(directory.status):
                read_object(directory.status)  # says why
            return {}, None
        check_types(found, Status)
    except (OSError, ValueError) as error:
        return {}, explain(error)
    missing = [key for key in ("state", "step") if key not in found]
    # mypy can't know that `check_types` has found a Status.
    return ({}, f"it has no {missing[0]}") if missing else (found, None)  # type: ignore[return-value]


def find_directory(text: str) -> Path:
    """Return the directory of a run or a sweep, given its path or the id of one of its jobs."""
    path = Path(text)
    return (find_by_job(text) or path) if JOB.fullmatch(text) and not may_exist(path) else path


def find_by_job(job: str) -> Path | None:
    """Return the directory in `runs/` of the run or sweep of a job; None if there is none."""
    sweeps = [path for path in find_files(RUNS) if is_sweep(path)]
    for sweep in sweeps:
        if job in [array.job_id for array in read_submissions(sweep)]:
            return sweep
    trials = [trial.path for sweep in sweeps for trial in list_trials(sweep)]
    return next((path for path in (*find_runs(RUNS), *trials) if job in list_job_ids(path)), None)
