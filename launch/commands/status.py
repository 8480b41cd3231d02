"""How runs are doing: the state, the step, the speed and what is left, from their files and from Slurm.

    dist-train status                       all runs below runs/, the newest first
    dist-train status runs/digits           one run; also a sweep, its trials sorted by their scores
    dist-train status 12                    the run of a Slurm job

It works without Slurm too, and on runs of this machine.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from dist_train.errors import SlurmError
from launch.runs import reader, tables
from launch.runs.history import JOB, submissions
from launch.runs.reader import Run
from launch.slurm import client
from launch.sweeps import sweep_dir
from launch.sweeps.sweep_dir import Trial


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        metavar="RUN|JOB|SWEEP",
        help="directory of a run, of a sweep, or of runs; or a job such as 12 or 12_3",
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(options: argparse.Namespace) -> int:
    if options.what is None:
        print(_all(options.json))
        return 0
    path = located(options.what)
    if path == Path(options.what) and JOB.fullmatch(options.what) and not path.exists():
        print(_of_slurm(options.what, options.json))
    elif sweep_dir.is_sweep(path):
        print(_sweep(path, options.json))
    elif reader.is_run(path) or not reader.below(path):
        print(_one(path, options.json))
    else:
        print(_all(options.json, path))
    return 0


def located(text: str) -> Path:
    """The directory that a user means by its path, or by the number of a job that it knows."""
    path = Path(text)
    return (of_job(text) or path) if JOB.fullmatch(text) and not path.exists() else path


def of_job(job: str) -> Path | None:
    """The run or the sweep below `runs/` whose directory knows a job; None where none does."""
    swept = [path for path in reader.RUNS.glob("*") if sweep_dir.is_sweep(path)]
    for sweep in swept:
        if job in [array.job_id for array in submissions(sweep)]:
            return sweep
    trials = [trial.path for sweep in swept for trial in reader.listed(sweep)]
    return next((path for path in (*reader.below(reader.RUNS), *trials) if job in reader.job_ids(path)), None)


def ranked(sweep: Path) -> list[tuple[Trial, Run]]:
    """The trials of a sweep, the best score first, those without one last.

    Raises:
        ConfigError: its `sweep.json` can't be read.
    """
    trials = sweep_dir.trials(sweep)
    rows = zip(trials, reader.read_all([trial.path for trial in trials]), strict=True)
    return sorted(rows, key=lambda row: -1.0 if row[1].score is None else row[1].score, reverse=True)


def _all(as_json: bool, root: Path = reader.RUNS) -> str:
    found = reader.read_all(reader.below(root))
    found.sort(key=lambda run: run.updated.timestamp() if run.updated else 0.0, reverse=True)
    if as_json:
        return _json([run.to_dict() for run in found])
    return tables.table_of_runs(found) if found else f"no runs below {root}/ here"


def _one(path: Path, as_json: bool) -> str:
    run = reader.read(path)
    return _json(run.to_dict()) if as_json else tables.in_lines(run)


def _sweep(path: Path, as_json: bool) -> str:
    rows = ranked(path)
    if not as_json:
        return tables.table_of_trials(rows)
    trials = [{"number": trial.number, "overrides": trial.overrides, **run.to_dict()} for trial, run in rows]
    return _json({"sweep": str(path), "trials": trials})


def _of_slurm(job: str, as_json: bool) -> str:
    """What Slurm says of a job that no run here knows; raises SlurmError where it knows nothing either."""
    known = list(client.jobs([job]).values()) if client.is_here() else []
    if not known:
        here = "Slurm does not know it any more" if client.is_here() else "there is no Slurm here to ask"
        raise SlurmError(
            f"job {job}: no run below {reader.RUNS}/ knows it, and {here}. Give a run's directory, or start this "
            f"in the directory that has {reader.RUNS}/"
        )
    if as_json:
        return _json([each._asdict() for each in known])
    return "\n".join(f"job {each.id} ({each.name}): {tables.of_job(each)}" for each in known)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2)
