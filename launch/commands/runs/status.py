"""Show the state, step, speed and remaining time of runs, from their files and from Slurm.

    dist-train status                       all runs in runs/, the newest first
    dist-train status runs/digits           one run
    dist-train status runs/digits.sweep     the trials of a sweep, sorted by score
    dist-train status 12                    the run of a Slurm job

Slurm is not required.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from dist_train.errors import SlurmError
from dist_train.system.escape import escape
from dist_train.system.read_file import may_exist
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
        help="directory of a run, of a sweep or of several runs; or a job, e.g. 12 or 12_3",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    if options.what is None:
        print(_format_all(options.json))
        return 0
    path = find_directory(options.what)
    if path == Path(options.what) and JOB.fullmatch(options.what) and not may_exist(path):
        print(_format_unknown_job(options.what, options.json))
    elif sweep_dir.is_sweep(path):
        print(_format_sweep(path, options.json))
    elif is_run(path) or not find_runs(path):
        print(_format_run(path, options.json))
    else:
        print(_format_all(options.json, path))
    return 0


def _format_all(as_json: bool, root: Path = RUNS) -> str:
    found = read_runs(find_runs(root))
    found.sort(key=lambda run: run.updated.timestamp() if run.updated else 0.0, reverse=True)
    if as_json:
        return _to_json([run.to_dict() for run in found])
    return format_runs(found) if found else f"no runs in {escape(root)}/"


def _format_run(path: Path, as_json: bool) -> str:
    run = read_run(path)
    return _to_json(run.to_dict()) if as_json else format_run(run)


def _format_sweep(path: Path, as_json: bool) -> str:
    rows = rank_trials(path)
    if not as_json:
        return format_trials(rows) if rows else f"{escape(path)}: has no trials"
    trials = [{"number": trial.number, "overrides": trial.overrides, **run.to_dict()} for trial, run in rows]
    return _to_json({"sweep": str(path), "trials": trials})


def _format_unknown_job(job: str, as_json: bool) -> str:
    """Format Slurm's state of a job that belongs to no run here; raises SlurmError if Slurm does not know it."""
    known = list(client.query_jobs([job]).values()) if client.is_available() else []
    if not known:
        why = "Slurm does not know it any more" if client.is_available() else "there is no Slurm on this machine"
        raise SlurmError(
            f"job {job}: no run in {RUNS}/ belongs to it, and {why}. Give the directory of a run, or change to "
            f"the directory that contains {RUNS}/"
        )
    if as_json:
        return _to_json([each._asdict() for each in known])
    return "\n".join(escape(f"job {each.id} ({each.name}): {format_job(each)}") for each in known)


def _to_json(content: Any) -> str:
    return json.dumps(content, indent=2).replace("\x7f", "\\u007f")  # the only control character that JSON leaves
