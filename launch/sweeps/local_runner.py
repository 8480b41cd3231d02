"""Train the trials of a sweep on this machine, several at once."""

import argparse
import os
import signal
import time
from collections import deque
from collections.abc import Sequence

from dist_train.system.stop_signals import PREEMPTED
from launch.local import placement, training_command
from launch.local.process_group import Running, Together
from launch.runs import snapshot
from launch.runs.format import percent
from launch.sweeps.sweep import Sweep
from launch.sweeps.sweep_dir import Trial

FAILED = 1


def train_all(sweep: Sweep, left: Sequence[Trial], options: argparse.Namespace) -> int:
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
    ranks = training_command.resolved(nproc, config.distributed, os.environ)
    settings = [str(sweep.begun.config), *sweep.shared(), *sweep.own(trial)]
    print(f"trial {trial.number}: begins: {named(trial)}", flush=True)
    return together.start(
        training_command.command_line(settings, ranks),
        placement.variables(place, at_once, ranks, os.environ),
        placement.cores(place, at_once),
    )


def _end(ended: Running, trial: Trial) -> int:
    """Say how a trial has ended; returns its exit code."""
    code, seconds = ended.code(), time.monotonic() - ended.began
    score = percent(snapshot.read_all([trial.path])[0].score)
    what = ", ".join(text for text in (_how(code), score, f"{seconds:.0f} s") if text)
    print(f"trial {trial.number}: {what}: {named(trial)}", flush=True)
    if code not in (0, PREEMPTED):
        print("\n".join(f"  | {line}" for line in ended.last_lines()), flush=True)
    ended.close()
    return code


def _how(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return {0: "done", PREEMPTED: "stopped, and can go on"}.get(code, f"failed with exit code {code}")


def named(trial: Trial) -> str:
    return " ".join(trial.overrides)
