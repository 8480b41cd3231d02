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
from launch.runs.find import RUNS, find_directory, find_runs, is_run
from launch.runs.format import format_job, format_run, format_runs, format_trials
from launch.runs.history import JOB
from launch.runs.snapshot import rank_trials, read_run, read_runs
from launch.slurm import client
from launch.sweeps import sweep_dir


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
        print(_show_all(options.json))
        return 0
    path = find_directory(options.what)
    if path == Path(options.what) and JOB.fullmatch(options.what) and not path.exists():
        print(_show_job(options.what, options.json))
    elif sweep_dir.is_sweep(path):
        print(_show_sweep(path, options.json))
    elif is_run(path) or not find_runs(path):
        print(_show_run(path, options.json))
    else:
        print(_show_all(options.json, path))
    return 0


def _show_all(as_json: bool, root: Path = RUNS) -> str:
    found = read_runs(find_runs(root))
    found.sort(key=lambda run: run.updated.timestamp() if run.updated else 0.0, reverse=True)
    if as_json:
        return _to_json([run.to_dict() for run in found])
    return format_runs(found) if found else f"no runs below {root}/ here"


def _show_run(path: Path, as_json: bool) -> str:
    run = read_run(path)
    return _to_json(run.to_dict()) if as_json else format_run(run)


def _show_sweep(path: Path, as_json: bool) -> str:
    rows = rank_trials(path)
    if not as_json:
        return format_trials(rows)
    trials = [{"number": trial.number, "overrides": trial.overrides, **run.to_dict()} for trial, run in rows]
    return _to_json({"sweep": str(path), "trials": trials})


def _show_job(job: str, as_json: bool) -> str:
    """What Slurm says of a job that no run here knows; raises SlurmError where it knows nothing either."""
    known = list(client.query_jobs([job]).values()) if client.is_available() else []
    if not known:
        here = "Slurm does not know it any more" if client.is_available() else "there is no Slurm here to ask"
        raise SlurmError(
            f"job {job}: no run below {RUNS}/ knows it, and {here}. Give a run's directory, or start this "
            f"in the directory that has {RUNS}/"
        )
    if as_json:
        return _to_json([each._asdict() for each in known])
    return "\n".join(f"job {each.id} ({each.name}): {format_job(each)}" for each in known)


def _to_json(content: Any) -> str:
    return json.dumps(content, indent=2)
