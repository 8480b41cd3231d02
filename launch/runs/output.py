"""Print the output of a run, or follow it until the run ends."""

import os
import sys
import time
from itertools import islice
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir
from dist_train.system.append_file import read_lines_backward
from launch.runs import snapshot
from launch.runs.format import summarize_run
from launch.runs.history import parse_time
from launch.runs.snapshot import RunSnapshot
from launch.slurm import client

POLL_OUTPUT = 0.2  # seconds between two reads of the output
POLL_FILES, POLL_SLURM = 0.5, 10.0  # seconds between two checks of the run's state, in its files and with squeue


def print_output(run: RunSnapshot, rank: int | None, lines: int | None) -> None:
    """Print the output of a run or the log of a rank: the last `lines` lines, or all (None).

    Raises:
        ConfigError: the file does not exist.
    """
    path = find_output(run, rank)
    if not path.is_file():
        raise _build_missing_error(run, rank)
    _copy_from(path, 0 if lines is None else _find_tail(path, lines))


def find_output(run: RunSnapshot, rank: int | None) -> Path:
    """Return the log file of a rank, or the output file of the newest start; it may not exist yet."""
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
    """Print the last `lines` lines and all that follow, also of later jobs, until the run ends.

    Raises:
        ConfigError: the file does not exist and the run has ended.
    """
    path, position = find_output(run, rank), 0
    if path.is_file():
        position = _find_tail(path, lines)
    elif run.is_active:
        print(f"{run.path}: {summarize_run(run)}; no output yet", file=sys.stderr, flush=True)
    else:
        raise _build_missing_error(run, rank)
    while True:
        position = _copy_from(path, position)
        if not run.is_active and run.pid is None:
            return
        deadline = time.monotonic() + (POLL_SLURM if run.active_jobs and client.is_available() else POLL_FILES)
        while time.monotonic() < deadline:
            time.sleep(POLL_OUTPUT)
            position = _copy_from(path, position)
        run = snapshot.read_run(run.path)
        if find_output(run, rank).resolve() != path.resolve():
            _copy_from(path, position)
            path, position = find_output(run, rank), 0


def _copy_from(path: Path, position: int) -> int:
    """Print a file from a position on, nothing if it does not exist; return the position of its end."""
    try:
        with path.open("rb") as file:
            file.seek(position if position <= path.stat().st_size else 0)  # the file was replaced by a new run
            while block := file.read(2**16):
                sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
            return file.tell()
    except FileNotFoundError:
        return position


def _find_tail(path: Path, lines: int) -> int:
    """Return the position of the last `lines` lines of a file; the last line may lack its newline."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        is_whole = file.read() == b"\n"
    kept = sum(len(line) + 1 for line in islice(read_lines_backward(path), lines))
    return max(0, size - kept + (kept > 0 and not is_whole))


def _build_missing_error(run: RunSnapshot, rank: int | None) -> ConfigError:
    logs = RunDir(run.path).logs
    if rank is None:
        return ConfigError(
            f"{find_output(run, None)}: does not exist. The run is {summarize_run(run)}; "
            "-f waits for the output of a run that is queued or starting"
        )
    there = sorted(int(path.stem.removeprefix("rank_")) for path in logs.glob("rank_[0-9]*.log"))
    known = f"there are logs of the ranks {', '.join(map(str, there))}" if there else "no rank has a log here"
    return ConfigError(f"{logs}: rank {rank} has no log; {known}. The log of a rank is on the machine where it ran")
