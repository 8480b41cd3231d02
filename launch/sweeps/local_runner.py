"""Train the trials of a sweep on this machine, several in parallel."""

import os
import signal
import time
from collections import deque
from collections.abc import Sequence

from dist_train.system.escape import escape
from dist_train.system.stop_signals import PREEMPTED
from launch.local.placement import build_slot_environment, choose_cores
from launch.local.process_pool import LoggedProcess, ProcessPool
from launch.local.training_command import build_command, resolve_ranks
from launch.runs.format import MAX_LINE, format_score, summarize_run
from launch.runs.snapshot import read_runs
from launch.sweeps.sweep import Sweep
from launch.sweeps.sweep_dir import Trial

FAILED = 1


def train_trials(sweep: Sweep, unfinished: Sequence[Trial], nproc: int | str, max_parallel: int) -> int:
    """Train the unfinished trials, `max_parallel` at once, until all have ended or a stop; return the exit code."""
    waiting, slots = deque(unfinished), min(max_parallel, len(unfinished))
    free, running, codes = list(range(slots)), dict[LoggedProcess, tuple[Trial, int]](), list[int]()
    with ProcessPool() as pool:
        while running or (waiting and not pool.is_stopping):
            while waiting and free and not pool.is_stopping:
                trial, slot = waiting.popleft(), free.pop(0)
                running[_start_trial(pool, sweep, trial, nproc, slot, slots)] = trial, slot
            for process in pool.poll():
                trial, slot = running.pop(process)
                free.append(slot)
                codes.append(_report_end(process, trial))
        is_stopped = pool.is_stopping
    if any(code not in (0, PREEMPTED) for code in codes) and not is_stopped:
        return FAILED
    return PREEMPTED if waiting or any(codes) else 0


def _start_trial(
    pool: ProcessPool, sweep: Sweep, trial: Trial, nproc: int | str, slot: int, slots: int
) -> LoggedProcess:
    config = sweep.settings[sweep.trials.index(trial)]
    ranks = resolve_ranks(nproc, config.distributed, os.environ)
    settings = [str(sweep.record.config), *sweep.shared_overrides, *sweep.build_overrides(trial)]
    print(escape(f"trial {trial.number}: started: {trial.format_overrides()}", MAX_LINE), flush=True)
    return pool.start(
        build_command(settings, ranks),
        build_slot_environment(slot, slots, ranks, os.environ),
        choose_cores(slot, slots),
    )


def _report_end(process: LoggedProcess, trial: Trial) -> int:
    """Print how a trial has ended, its score and its time; return the exit code, FAILED if its files say otherwise."""
    code, seconds = process.wait(), time.monotonic() - process.began
    run = read_runs([trial.path])[0]
    end = _describe_exit(code)
    if code == 0 and run.state != "done":
        code, end = FAILED, f"failed: its exit code is 0, but it is {summarize_run(run)}"
    what = ", ".join(text for text in (end, format_score(run), f"{seconds:.0f} s") if text)
    print(escape(f"trial {trial.number}: {what}: {trial.format_overrides()}", MAX_LINE), flush=True)
    if code not in (0, PREEMPTED):
        print("\n".join(f"  | {escape(line, MAX_LINE)}" for line in process.read_last_lines()), flush=True)
    process.close()
    return code


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return {0: "done", PREEMPTED: "stopped, resumable"}.get(code, f"failed with exit code {code}")
