"""What a run printed: which file it is, its last lines, and what comes."""

import os
import sys
import time
from itertools import islice
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir
from dist_train.system.append_file import backward
from launch.runs import snapshot
from launch.runs.format import summarize_run
from launch.runs.history import parse_time
from launch.runs.snapshot import RunSnapshot
from launch.slurm import client

POLL = 0.2  # seconds between two looks at what was printed
LOOK, ASK = 0.5, 10.0  # seconds between two looks at the run's state: in its files, and of Slurm


def find_output(run: RunSnapshot, rank: int | None) -> Path:
    """The file that a rank logs to, or that the run's newest start prints to; it may not be there yet."""
    directory = RunDir(run.path)
    if rank is not None or not run.is_of_job:
        return directory.logs / f"rank_{rank or 0}.log"
    start = run.history.starts[-1] if run.history.starts else None
    submitted = run.history.submissions[-1] if run.history.submissions else None
    began = parse_time(start.time) if start else None
    if submitted and (began is None or began < submitted.time):
        return submitted.output
    if start and start.output:
        return Path(start.output)
    return directory.jobs / f"slurm-{start.job_id if start else run.status.get('job_id')}.out"


def follow(run: RunSnapshot, rank: int | None, lines: int) -> None:
    """Print the last lines and those that come, until the run has ended; `run` as it was a moment ago."""
    path, position = find_output(run, rank), 0
    if path.is_file():
        position = find_tail(path, lines)
    elif run.is_active:
        print(f"{run.path}: {summarize_run(run)}; nothing is printed yet", file=sys.stderr, flush=True)
    else:
        raise build_missing_error(run, rank)
    while True:
        position = copy_from(path, position)
        if not run.is_active and run.pid is None:
            return
        deadline = time.monotonic() + (ASK if run.active_jobs and client.is_available() else LOOK)
        while time.monotonic() < deadline:
            time.sleep(POLL)
            position = copy_from(path, position)
        run = snapshot.read_run(run.path)
        if find_output(run, rank).resolve() != path.resolve():
            copy_from(path, position)
            path, position = find_output(run, rank), 0


def copy_from(path: Path, position: int) -> int:
    """Print what a file has from a position on, nothing while there is none; returns where it ends."""
    try:
        with path.open("rb") as file:
            file.seek(position if position <= path.stat().st_size else 0)  # a run that was begun anew
            while block := file.read(2**16):
                sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
            return file.tell()
    except FileNotFoundError:
        return position


def find_tail(path: Path, lines: int) -> int:
    """Where the last lines of a file begin; the last of all may still lack its newline."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        is_whole = file.read() == b"\n"
    kept = sum(len(line) + 1 for line in islice(backward(path), lines))
    return max(0, size - kept + (kept > 0 and not is_whole))


def build_missing_error(run: RunSnapshot, rank: int | None) -> ConfigError:
    logs = RunDir(run.path).logs
    if rank is None:
        return ConfigError(
            f"{find_output(run, None)}: is not there. The run is {summarize_run(run)}; "
            "-f waits while it is going to print"
        )
    there = sorted(int(path.stem.removeprefix("rank_")) for path in logs.glob("rank_[0-9]*.log"))
    known = f"there are the ranks {', '.join(map(str, there))}" if there else "no rank has left one"
    return ConfigError(f"{logs}: rank {rank} has no log; {known}. A rank's log lies on the machine that it ran on")
