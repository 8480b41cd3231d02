"""Print the output of a run, or follow it until the run ends."""

import os
import re
import sys
import time
from codecs import getincrementaldecoder
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir
from dist_train.system.escape import escape, escape_lines
from dist_train.system.read_file import explain, find_files, may_exist, open_regular
from launch.runs import snapshot
from launch.runs.format import summarize_run
from launch.runs.history import parse_time
from launch.runs.snapshot import RunSnapshot
from launch.slurm import client

MAX_LINE = 10_000  # characters of a line that are printed
POLL_OUTPUT = 0.2  # seconds between two reads of the output
POLL_FILES, POLL_SLURM = 0.5, 10.0  # seconds between two checks of the run's state, in its files and with squeue


def print_output(run: RunSnapshot, rank: int | None, lines: int | None) -> None:
    """Print the output of a run or the log of a rank: the last `lines` lines, or all (None).

    Raises:
        ConfigError: the file does not exist or can't be read.
    """
    path = find_output(run, rank)
    if not may_exist(path):
        raise _build_missing_error(run, rank)
    _copy_from(path, 0 if lines is None else _find_tail(path, lines), _Screen())


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
    path, position, screen = find_output(run, rank), 0, _Screen()
    if may_exist(path):
        position = _find_tail(path, lines)
    elif run.is_active:
        print(f"{escape(run.path)}: {summarize_run(run)}; no output yet", file=sys.stderr, flush=True)
    else:
        raise _build_missing_error(run, rank)
    while True:
        position = _copy_from(path, position, screen)
        if not run.is_active and run.pid is None:
            return
        deadline = time.monotonic() + (POLL_SLURM if run.active_jobs and client.is_available() else POLL_FILES)
        while time.monotonic() < deadline:
            time.sleep(POLL_OUTPUT)
            position = _copy_from(path, position, screen)
        run = snapshot.read_run(run.path)
        if os.path.realpath(find_output(run, rank)) != os.path.realpath(path):
            _copy_from(path, position, screen)
            path, position = find_output(run, rank), 0


class _Screen:
    """Standard output, for text that others wrote: control characters are escaped, and long lines cut."""

    def __init__(self) -> None:
        self._decode = getincrementaldecoder("utf-8")("backslashreplace").decode
        self._column = 0

    def write(self, block: bytes) -> None:
        first, *others = self._decode(block).split("\n")
        shown = "\n".join([self._cut(first), *map(self._begin_line, others)])
        print(escape_lines(shown), end="")

    def _begin_line(self, text: str) -> str:
        self._column = 0
        return self._cut(text)

    def _cut(self, text: str) -> str:
        room = MAX_LINE - self._column
        self._column += len(text)
        return text if len(text) <= room else f"{text[:room]} ... (cut)" if room >= 0 else ""


def _copy_from(path: Path, position: int, screen: _Screen) -> int:
    """Print a file from a position on, nothing if it does not exist; return the position of its end.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(position if position <= size else 0)  # the file was replaced by a new run
            while block := file.read(2**16):
                screen.write(block)
            print(end="", flush=True)
            return file.tell()
    except FileNotFoundError:
        return position
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{escape(path)}: can't be read: {explain(error)}") from None


def _find_tail(path: Path, lines: int) -> int:
    """Return the position of the last `lines` lines of a file; the last line may lack its newline."""
    try:
        with open_regular(path) as file:
            position = size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            missing = lines + (file.read(1) == b"\n")  # newlines that are still to be found
            while position and missing:
                start = max(0, position - 2**16)
                file.seek(start)
                block = file.read(position - start)
                while missing and (found := block.rfind(b"\n")) >= 0:
                    block, position, missing = block[:found], start + found, missing - 1
                position = position + 1 if not missing else start
            return size if lines == 0 else position
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise ConfigError(f"{escape(path)}: can't be read: {explain(error)}") from None


def _build_missing_error(run: RunSnapshot, rank: int | None) -> ConfigError:
    logs = RunDir(run.path).logs
    if rank is None:
        return ConfigError(
            f"{escape(find_output(run, None))}: does not exist. The run is {summarize_run(run)}; "
            "-f waits for the output of a run that is queued or starting"
        )
    names = [re.fullmatch(r"rank_([0-9]{1,9})\.log", path.name) for path in find_files(logs)]
    there = sorted(int(name[1]) for name in names if name)
    known = f"there are logs of the ranks {', '.join(map(str, there))}" if there else "no rank has a log here"
    return ConfigError(
        f"{escape(logs)}: rank {rank} has no log; {known}. The log of a rank is on the machine where it ran"
    )
