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
import signal
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir
from dist_train.system.stop_signals import PREEMPTED
from launch.arguments import AUTO, number_from
from launch.commands import submit, train
from launch.commands.status import ranked
from launch.runs import reader, tables
from launch.slurm import client
from launch.sweeps import resources
from launch.sweeps.grid import Grid
from launch.sweeps.local_runner import Running, Together
from launch.sweeps.sweep_dir import Sweep, Trial

if TYPE_CHECKING:
    from dist_train.settings.schema import Config

FAILED = 1


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
        type=number_from(1, AUTO, most=train.most_ranks()),
        default=AUTO,
        metavar="N|auto",
        help="ranks of a trial on this machine; auto (the default): as `dist-train train` has it",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be started; start nothing")
    submit.add_resources(parser)


def run(options: argparse.Namespace) -> int:
    """Check all trials, then start those that are not done."""
    _check_flags(options)
    grid = Grid.of(options.overrides)
    return _submit(options, grid) if options.slurm else _train(options, grid)


def _check_flags(options: argparse.Namespace) -> None:
    """Raise ConfigError for flags that mean nothing where the trials are going to be."""
    parser = argparse.ArgumentParser()
    submit.add_resources(parser)
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
        check_ranks(config, train.resolved(options.nproc, config.distributed, os.environ) or 1)

    sweep = Sweep.of(Path(options.config), grid, check)
    left = sweep.left()
    print(f"{sweep.directory}: {len(sweep.trials)} trials, {len(left)} to be trained", flush=True)
    if options.dry_run:
        print("\n".join(f"  {trial.number}: {_named(trial)}" for trial in left))
        return 0
    with sweep.claimed():
        if client.is_here():
            submit.check_free(RunDir(sweep.directory))
        code = _train_all(sweep, left, options) if left else 0
    print(tables.table_of_trials(ranked(sweep.directory)))
    return code


def _train_all(sweep: Sweep, left: Sequence[Trial], options: argparse.Namespace) -> int:
    """Keep as many trials running as may, until all have ended or a stop is asked for; returns the exit code."""
    waiting, at_once = deque(left), min(options.max_parallel or 1, len(left))
    free, running, codes = list(range(at_once)), dict[Running, tuple[Trial, int]](), list[int]()
    with Together() as together:
        while running or (waiting and not together.is_stopping):
            while waiting and free and not together.is_stopping:
                trial, place = waiting.popleft(), free.pop(0)
                running[_start(together, sweep, trial, options.nproc, place, at_once)] = trial, place
            for ended in together.ended():
                trial, place = running.pop(ended)
                free.append(place)
                codes.append(_end(ended, trial))
        is_stopped = together.is_stopping
    if any(code not in (0, PREEMPTED) for code in codes) and not is_stopped:
        return FAILED
    return PREEMPTED if waiting or any(codes) else 0


def _start(together: Together, sweep: Sweep, trial: Trial, nproc: int | str, place: int, at_once: int) -> Running:
    """Start a trial in one of the places that share this machine."""
    config = sweep.settings[sweep.trials.index(trial)]
    ranks = train.resolved(nproc, config.distributed, os.environ)
    settings = [str(sweep.begun.config), *sweep.shared(), *sweep.own(trial)]
    print(f"trial {trial.number}: begins: {_named(trial)}", flush=True)
    return together.start(
        train.command_line(settings, ranks),
        resources.variables(place, at_once, ranks, os.environ),
        resources.cores(place, at_once),
    )


def _end(ended: Running, trial: Trial) -> int:
    """Say how a trial has ended; returns its exit code."""
    code, seconds = ended.code(), time.monotonic() - ended.began
    score = tables.percent(reader.read_all([trial.path])[0].score)
    what = ", ".join(text for text in (_how(code), score, f"{seconds:.0f} s") if text)
    print(f"trial {trial.number}: {what}: {_named(trial)}", flush=True)
    if code not in (0, PREEMPTED):
        print("\n".join(f"  | {line}" for line in ended.last_lines()), flush=True)
    ended.close()
    return code


def _how(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return {0: "done", PREEMPTED: "stopped, and can go on"}.get(code, f"failed with exit code {code}")


def _submit(options: argparse.Namespace, grid: Grid) -> int:
    """Submit the trials as a job array; returns the exit code."""
    resources = submit.Resources.of(options)
    sweep = Sweep.of(Path(options.config), grid, resources.check)
    left = sweep.left()
    print("\n".join(dict.fromkeys(map(resources.shown, sweep.settings))))
    print(f"{sweep.directory}: {len(sweep.trials)} trials, {len(left)} to be submitted")
    if not left:
        return 0
    submission = _submission(sweep, left, resources, options.max_parallel, submit.again(options.given))
    submit.rehearse(submission, options.dry_run)
    if options.dry_run:
        return 0
    submit.check_free(RunDir(sweep.directory))
    with sweep.claimed():
        submit.lay_out(sweep.begun.config, submission)
        submission.submit()
    print(f"  a task for each of {len(left)} trials\n{_what_next(sweep)}")
    return 0


def _submission(
    sweep: Sweep, left: Sequence[Trial], resources: submit.Resources, max_parallel: int | None, go_on: str
) -> submit.Submission:
    run = RunDir(sweep.directory)
    directory = run.jobs / str(submit.next_number(run))
    return submit.Submission(
        resources,
        sweep.settings[0].run.name,
        directory,
        (str(directory / sweep.begun.config.name), *sweep.shared()),
        {trial.number: sweep.own(trial) for trial in left},
        max_parallel,
        go_on,
    )


def _what_next(sweep: Sweep) -> str:
    return (
        f"  dist-train status {sweep.directory}     its trials, the best first\n"
        f"  dist-train cancel {sweep.directory}     save and stop\n"
        "The same command submits later what is not done then"
    )


def _named(trial: Trial) -> str:
    return " ".join(trial.overrides)
