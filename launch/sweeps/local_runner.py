"""Train the trials of a sweep on this machine, several at once."""

import argparse
import os
import signal
import time
from collections import deque
from collections.abc import Sequence

from dist_train.system.stop_signals import PREEMPTED
from launch.local import placement, training_command
from launch.local.process_group import LoggedProcess, ProcessGroup
from launch.runs import snapshot
from launch.runs.format import format_percent
from launch.sweeps.sweep import Sweep
from launch.sweeps.sweep_dir import Trial

FAILED = 1


def train_trials(sweep: Sweep, left: Sequence[Trial], options: argparse.Namespace) -> int:
    """Keep as many trials running as may, until all have ended or a stop is asked for; returns the exit code."""
    waiting, at_once = deque(left), min(options.max_parallel or 1, len(left))
    free, running, codes = list(range(at_once)), dict[LoggedProcess, tuple[Trial, int]](), list[int]()
    with ProcessGroup() as together:
        while running or (waiting and not together.is_stopping):
            while waiting and free and not together.is_stopping:
                trial, slot = waiting.popleft(), free.pop(0)
                running[_start_trial(together, sweep, trial, options.nproc, slot, at_once)] = trial, slot
            for ended in together.poll():
                trial, slot = running.pop(ended)
                free.append(slot)
                codes.append(_report_end(ended, trial))
        is_stopped = together.is_stopping
    if any(code not in (0, PREEMPTED) for code in codes) and not is_stopped:
        return FAILED
    return PREEMPTED if waiting or any(codes) else 0


def _start_trial(
    together: ProcessGroup, sweep: Sweep, trial: Trial, nproc: int | str, slot: int, at_once: int
) -> LoggedProcess:
    """Start a trial in one of the places that share this machine."""
    config = sweep.settings[sweep.trials.index(trial)]
    ranks = training_command.resolve_ranks(nproc, config.distributed, os.environ)
    settings = [str(sweep.record.config), *sweep.shared_overrides(), *sweep.build_overrides(trial)]
    print(f"trial {trial.number}: begins: {format_overrides(trial)}", flush=True)
    return together.start(
        training_command.build_command(settings, ranks),
        placement.build_slot_environment(slot, at_once, ranks, os.environ),
        placement.choose_cores(slot, at_once),
    )


def _report_end(ended: LoggedProcess, trial: Trial) -> int:
    """Say how a trial has ended; returns its exit code."""
    code, seconds = ended.wait(), time.monotonic() - ended.began
    score = format_percent(snapshot.read_runs([trial.path])[0].score)
    what = ", ".join(text for text in (_describe_exit(code), score, f"{seconds:.0f} s") if text)
    print(f"trial {trial.number}: {what}: {format_overrides(trial)}", flush=True)
    if code not in (0, PREEMPTED):
        print("\n".join(f"  | {line}" for line in ended.read_last_lines()), flush=True)
    ended.close()
    return code


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return {0: "done", PREEMPTED: "stopped, and can go on"}.get(code, f"failed with exit code {code}")


def format_overrides(trial: Trial) -> str:
    return " ".join(trial.overrides)
