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
from launch.runs.find import RUNS, below, is_run, located
from launch.runs.format import in_lines, of_job, table_of_runs, table_of_trials
from launch.runs.history import JOB
from launch.runs.snapshot import ranked, read, read_all
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
        print(_all(options.json))
        return 0
    path = located(options.what)
    if path == Path(options.what) and JOB.fullmatch(options.what) and not path.exists():
        print(_of_slurm(options.what, options.json))
    elif sweep_dir.is_sweep(path):
        print(_sweep(path, options.json))
    elif is_run(path) or not below(path):
        print(_one(path, options.json))
    else:
        print(_all(options.json, path))
    return 0


def _all(as_json: bool, root: Path = RUNS) -> str:
    found = read_all(below(root))
    found.sort(key=lambda run: run.updated.timestamp() if run.updated else 0.0, reverse=True)
    if as_json:
        return _json([run.to_dict() for run in found])
    return table_of_runs(found) if found else f"no runs below {root}/ here"


def _one(path: Path, as_json: bool) -> str:
    run = read(path)
    return _json(run.to_dict()) if as_json else in_lines(run)


def _sweep(path: Path, as_json: bool) -> str:
    rows = ranked(path)
    if not as_json:
        return table_of_trials(rows)
    trials = [{"number": trial.number, "overrides": trial.overrides, **run.to_dict()} for trial, run in rows]
    return _json({"sweep": str(path), "trials": trials})


def _of_slurm(job: str, as_json: bool) -> str:
    """What Slurm says of a job that no run here knows; raises SlurmError where it knows nothing either."""
    known = list(client.jobs([job]).values()) if client.is_here() else []
    if not known:
        here = "Slurm does not know it any more" if client.is_here() else "there is no Slurm here to ask"
        raise SlurmError(
            f"job {job}: no run below {RUNS}/ knows it, and {here}. Give a run's directory, or start this "
            f"in the directory that has {RUNS}/"
        )
    if as_json:
        return _json([each._asdict() for each in known])
    return "\n".join(f"job {each.id} ({each.name}): {of_job(each)}" for each in known)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2)
