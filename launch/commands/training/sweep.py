"""Train a grid of settings: each combination of the values is a run of its own, a trial.

    dist-train sweep configs/digits.yaml optim.lr=0.001,0.002,0.004 data.global_batch=32,64 train.epochs=5
    dist-train sweep configs/digits.yaml optim.lr=0.001,0.002,0.004 --max-parallel 3 --nproc 1
    dist-train sweep configs/digits.yaml optim.lr=0.001,0.002,0.004 --slurm --gpus-per-node 0 --time 0:10:00

All files are in `<run.dir>.sweep/`. The same command resumes the sweep: it skips finished trials, resumes stopped ones
and retries failed ones. With other values it adds trials. `dist-train status <run.dir>.sweep` lists them by score.
"""

import argparse
import os
from typing import TYPE_CHECKING

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir
from dist_train.system.escape import escape
from dist_train.system.plural import format_count
from launch.arguments import AUTO, CONFIG, number_from
from launch.local.training_command import max_ranks, resolve_ranks
from launch.runs.format import MAX_LINE, format_trials
from launch.runs.snapshot import rank_trials
from launch.slurm import client
from launch.slurm.resources import Resources, add_resource_arguments
from launch.slurm.submission import build_resume_command, check_no_active_job, check_submission
from launch.sweeps.grid import Grid
from launch.sweeps.job_array import prepare_array, submit_array
from launch.sweeps.local_runner import train_trials
from launch.sweeps.sweep import Sweep

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help=CONFIG)
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value[,value...]",
        help="settings that override those of the file; a setting with several values varies",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="train on this machine (default)")
    where.add_argument("--slurm", action="store_true", help="submit a job array with one task per trial")
    parser.add_argument(
        "--max-parallel",
        type=number_from(1),
        metavar="K",
        help="limit of the trials that run at once; default: one on this machine, no limit with --slurm",
    )
    parser.add_argument(
        "--nproc",
        type=number_from(1, AUTO, most=max_ranks()),
        default=AUTO,
        metavar="N|auto",
        help="ranks per trial on this machine; auto (default): one per GPU, or one process on the CPU",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be started; start nothing")
    add_resource_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Check all trials, then train or submit the unfinished ones."""
    _check_flags(options)
    grid = Grid.parse(options.overrides)
    return _submit(options, grid) if options.slurm else _train(options, grid)


def _check_flags(options: argparse.Namespace) -> None:
    """Raise ConfigError for flags that do not fit --local or --slurm."""
    parser = argparse.ArgumentParser()
    add_resource_arguments(parser)
    of_slurm = [name for name, default in vars(parser.parse_args([])).items() if getattr(options, name) != default]
    if of_slurm and not options.slurm:
        flag = "flags after --" if of_slurm == ["passed_on"] else f"--{of_slurm[0].replace('_', '-')}"
        raise ConfigError(f"{flag}: only for Slurm jobs; add --slurm, or remove it")
    if options.slurm and options.nproc != AUTO:
        raise ConfigError("--nproc: only on this machine; with --slurm use --nproc-per-node")


def _train(options: argparse.Namespace, grid: Grid) -> int:
    from dist_train.recipes import find_config
    from dist_train.settings.schedule import check_ranks

    def check(config: "Config") -> None:
        check_ranks(config, resolve_ranks(options.nproc, config.distributed, os.environ) or 1)

    sweep = Sweep.plan(find_config(options.config), grid, check)
    unfinished = sweep.find_unfinished()
    print(
        f"{escape(sweep.directory)}: {format_count(len(sweep.trials), 'trial')}, {len(unfinished)} to be trained",
        flush=True,
    )
    if options.dry_run:
        print("\n".join(escape(f"  {trial.number}: {trial.format_overrides()}", MAX_LINE) for trial in unfinished))
        return 0
    with sweep.claim():
        if client.is_available():
            check_no_active_job(RunDir(sweep.directory))
        code = train_trials(sweep, unfinished, options.nproc, options.max_parallel or 1) if unfinished else 0
    print(format_trials(rank_trials(sweep.directory)))
    return code


def _submit(options: argparse.Namespace, grid: Grid) -> int:
    from dist_train.recipes import find_config

    resources = Resources.from_options(options)
    sweep = Sweep.plan(find_config(options.config), grid, resources.check)
    unfinished = sweep.find_unfinished()
    print("\n".join(dict.fromkeys(map(resources.describe, sweep.settings))))
    print(f"{escape(sweep.directory)}: {format_count(len(sweep.trials), 'trial')}, {len(unfinished)} to be submitted")
    if not unfinished:
        return 0
    resume_command = build_resume_command(options.command_arguments)
    submission = prepare_array(sweep, unfinished, resources, options.max_parallel, resume_command)
    check_submission(submission, options.dry_run)
    if options.dry_run:
        return 0
    submit_array(submission, sweep)
    print(f"  one task for each of {format_count(len(unfinished), 'trial')}\n{_suggest_next(sweep)}")
    return 0


def _suggest_next(sweep: Sweep) -> str:
    return (
        f"  dist-train status {escape(sweep.directory)}     list the trials, the best first\n"
        f"  dist-train cancel {escape(sweep.directory)}     save and stop\n"
        "Run the same command again to submit the trials that are not done then"
    )
