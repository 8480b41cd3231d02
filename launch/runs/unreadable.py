"""Find the files of a run that can't be read, and why."""

import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from dist_train.diagnostics.verdict import read_verdict
from dist_train.run_dir import RunDir
from dist_train.system.read_file import explain, list_directory, may_exist, open_regular
from launch.runs.history import STARTS
from launch.runs.progress import read_newest
from launch.runs.run_settings import read_global_batch


def find_unreadable(run: RunDir, status_fault: str | None) -> dict[str, str]:
    """Return why files of a run can't be read, by their names; the directory itself is `.`."""
    if may_exist(run.status) and not os.path.lexists(run.status):  # the directory can't be entered
        return {".": status_fault or "unknown"}
    of_status = {run.status.name: status_fault} if status_fault else {}
    return {**of_status, **dict(_find_faults(run))}


def _find_faults(run: RunDir) -> Iterator[tuple[str, str]]:
    verdict = run.diagnostics / "verdict.json"
    readers: dict[Path, Callable[[], object]] = {
        run.metrics: lambda: next(chain(read_newest(run.path, "train"), read_newest(run.path, "eval")), None),
        run.config: lambda: read_global_batch(run.path),
        verdict: lambda: read_verdict(run.path),
        run.jobs / STARTS: lambda: True,
        run.lock: lambda: True,
    }
    for path, read in readers.items():
        if may_exist(path) and (fault := _find_fault(path, read)):
            yield str(path.relative_to(run.path)), fault
    for directory in (run.logs, run.diagnostics, run.jobs, run.checkpoints):
        try:
            list_directory(directory)
        except OSError as error:
            yield directory.name, explain(error)


def _find_fault(path: Path, read: Callable[[], object]) -> str | None:
    try:
        with open_regular(path) as file:
            is_empty = not file.read(1)
    except OSError as error:
        return explain(error)
    return None if is_empty or read() is not None else "is damaged"
