"""Train a grid of settings: what has several values varies, and each combination is a run of its own.

    dist-train sweep configs/digits.yaml optim.lr=0.001,0.002,0.004 data.global_batch=32,64 train.epochs=5
    dist-train sweep configs/digits.yaml optim.lr=0.001,0.002,0.004 --max-parallel 3 --nproc 1
    dist-train sweep configs/digits.yaml optim.lr=0.001,0.002,0.004 --slurm --gpus-per-node 0 --time 0:10:00

All lies in `<run.dir>.sweep/`. The same command goes on: what is done stays, what was stopped goes on, what has failed
is tried again. With other values, new trials join those that are there. `dist-train status <run.dir>.sweep` lists them
by their scores.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir
from launch.arguments import AUTO, number_from
from launch.local.training_command import max_ranks, resolve_ranks
from launch.runs.format import format_trials
from launch.runs.snapshot import rank_trials
from launch.slurm import client
from launch.slurm.resources import Resources, add_resource_arguments
from launch.slurm.submission import (
    Submission,
    build_resume_command,
    check_no_active_job,
    check_submission,
    find_next_number,
    write_job_files,
)
from launch.sweeps.grid import Grid
from launch.sweeps.local_runner import format_overrides, train_trials
from launch.sweeps.sweep import Sweep
from launch.sweeps.sweep_dir import Trial

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="file of settings, e.g. configs/digits.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value[,value...]",
        help="settings that override the file's; those with several values vary",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="train on this machine; the default")
    where.add_argument("--slurm", action="store_true", help="submit a job array, with a task for each trial")
    parser.add_argument(
        "--max-parallel",
        type=number_from(1),
        metavar="K",
        help="trials at once; default: one on this machine, and with --slurm as many as there is room for",
    )
    parser.add_argument(
        "--nproc",
        type=number_from(1, AUTO, most=max_ranks()),
        default=AUTO,
        metavar="N|auto",
        help="ranks of a trial on this machine; auto (the default): as `dist-train train` has it",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be started; start nothing")
    add_resource_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Check all trials, then start those that are not done."""
    _check_flags(options)
    grid = Grid.parse(options.overrides)
    return _submit(options, grid) if options.slurm else _train(options, grid)


def _check_flags(options: argparse.Namespace) -> None:
    """Raise ConfigError for flags that mean nothing where the trials are going to be."""
    parser = argparse.ArgumentParser()
    add_resource_arguments(parser)
    of_slurm = [name for name, default in vars(parser.parse_args([])).items() if getattr(options, name) != default]
    if of_slurm and not options.slurm:
        flag = "flags after --" if of_slurm == ["passed_on"] else f"--{of_slurm[0].replace('_', '-')}"
        raise ConfigError(f"{flag}: only for jobs of Slurm; add --slurm, or leave it out")
    if options.slurm and options.nproc != AUTO:
        raise ConfigError("--nproc: only on this machine; with --slurm it is --nproc-per-node")


def _train(options: argparse.Namespace, grid: Grid) -> int:
    """Train the trials on this machine; returns the exit code."""
    from dist_train.settings.schedule import check_ranks

    def check(config: "Config") -> None:
        check_ranks(config, resolve_ranks(options.nproc, config.distributed, os.environ) or 1)

    sweep = Sweep.open(Path(options.config), grid, check)
    left = sweep.find_unfinished()
    print(f"{sweep.directory}: {len(sweep.trials)} trials, {len(left)} to be trained", flush=True)
    if options.dry_run:
        print("\n".join(f"  {trial.number}: {format_overrides(trial)}" for trial in left))
        return 0
    with sweep.claim():
        if client.is_available():
            check_no_active_job(RunDir(sweep.directory))
        code = train_trials(sweep, left, options) if left else 0
    print(format_trials(rank_trials(sweep.directory)))
    return code


def _submit(options: argparse.Namespace, grid: Grid) -> int:
    """Submit the trials as a job array; returns the exit code."""
    resources = Resources.from_options(options)
    sweep = Sweep.open(Path(options.config), grid, resources.check)
    left = sweep.find_unfinished()
    print("\n".join(dict.fromkeys(map(resources.describe, sweep.settings))))
    print(f"{sweep.directory}: {len(sweep.trials)} trials, {len(left)} to be submitted")
    if not left:
        return 0
    submission = _build_submission(sweep, left, resources, options.max_parallel, build_resume_command(options.given))
    check_submission(submission, options.dry_run)
    if options.dry_run:
        return 0
    check_no_active_job(RunDir(sweep.directory))
    with sweep.claim():
        write_job_files(sweep.record.config, submission)
        submission.submit()
    print(f"  a task for each of {len(left)} trials\n{_suggest_next(sweep)}")
    return 0


def _build_submission(
    sweep: Sweep, left: Sequence[Trial], resources: Resources, max_parallel: int | None, go_on: str
) -> Submission:
    run = RunDir(sweep.directory)
    directory = run.jobs / str(find_next_number(run))
    return Submission(
        resources,
        sweep.settings[0].run.name,
        directory,
        (str(directory / sweep.record.config.name), *sweep.shared_overrides()),
        {trial.number: sweep.build_overrides(trial) for trial in left},
        max_parallel,
        go_on,
    )


def _suggest_next(sweep: Sweep) -> str:
    return (
        f"  dist-train status {sweep.directory}     its trials, the best first\n"
        f"  dist-train cancel {sweep.directory}     save and stop\n"
        "The same command submits later what is not done then"
    )
