"""Read the directory of a sweep, `<run.dir>.sweep/`.

sweep.json       config, overrides, axes, trials: [{"number": 0, "overrides": ["optim.lr=0.1"], "dir": ".../0-lr=0.1"}]
digits.yaml      copy of CONFIG, which all trials train
0-lr=0.1/ ...    the runs
jobs/            the job arrays, with the same files as those of a run
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from dist_train.errors import ConfigError
from dist_train.system.escape import escape
from dist_train.system.process import read_process_stat
from dist_train.system.read_file import check_types, explain, parse_record, read_bytes, read_object

LIST, LOCK = "sweep.json", "sweep.lock"


@dataclass(frozen=True)
class Trial:
    """One combination of the values of a sweep."""

    sweep: Path
    number: int
    """Number in the sweep, and of the task in a job array."""
    overrides: tuple[str, ...]
    path: Path
    """The directory of its run, which may not exist yet."""

    def format_overrides(self) -> str:
        return " ".join(self.overrides)


@dataclass(frozen=True)
class Holder:
    """The process that trains or submits a sweep, in `sweep.lock`."""

    host: str
    pid: int
    start: int | None
    """Its start time as `read_start_time` returns it."""


class SweepRecord(NamedTuple):
    """The content of `sweep.json`."""

    config: Path
    """Copy of CONFIG."""
    common: tuple[str, ...]
    """Overrides of all trials."""
    axes: Mapping[str, tuple[str, ...]]
    """Values of each setting that varies."""
    trials: tuple[Trial, ...]


class _ListedTrial(TypedDict):
    number: int
    overrides: list[str]
    dir: str


class _List(TypedDict):
    config: str
    overrides: list[str]
    axes: dict[str, Any]
    trials: list[dict[str, Any]]


def is_sweep(directory: Path) -> bool:
    return os.path.lexists(directory / LIST)


def refuse_sweep(path: Path) -> None:
    """Raise ConfigError if a path is the directory of a sweep, for a command that needs a run."""
    if is_sweep(path):
        names = ", ".join(escape(trial.path.name) for trial in read_trials(path)[:3])
        raise ConfigError(f"{escape(path)}: is a sweep; give the directory of one of its trials ({names}, ...)")


def find_worker(sweep: Path) -> int | None:
    """Return the process of this machine that holds the lock of a sweep; None if there is none."""
    try:
        holder = parse_record(Holder, read_bytes(sweep / LOCK))
    except (OSError, ValueError):
        return None
    is_here = holder.host == socket.gethostname() and holder.start is not None
    return holder.pid if is_here and read_start_time(holder.pid) == holder.start else None


def read_trials(sweep: Path) -> list[Trial]:
    """Read the trials of a sweep, sorted by number; their paths follow the directory if it was moved.

    Raises:
        ConfigError: `sweep.json` is damaged.
    """
    with _report_damage(sweep):
        found = [
            Trial(sweep, one["number"], tuple(one["overrides"]), sweep / _read_name(one["dir"]))
            for one in _read_content(sweep)["trials"]
        ]
    return sorted(found, key=lambda trial: trial.number)


def find_trial(run: Path) -> Trial | None:
    """Return the trial whose run directory is `run`; None if it is not part of a sweep."""
    path = run.absolute()
    listed = read_trials(path.parent) if is_sweep(path.parent) else []
    return next((trial for trial in listed if trial.path.name == path.name), None)


def read_record(directory: Path) -> SweepRecord:
    """Read `sweep.json`; raises ConfigError if it is damaged."""
    with _report_damage(directory):
        content = _read_content(directory)
        axes = {key: tuple(map(str, values)) for key, values in content["axes"].items()}
        config, common = directory / _read_name(content["config"]), tuple(content["overrides"])
    return SweepRecord(config, common, axes, tuple(read_trials(directory)))


@contextmanager
def _report_damage(sweep: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{escape(sweep / LIST)}: can't be read: {explain(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{escape(sweep / LIST)}: is damaged: {escape(repr(error))}. Only `dist-train sweep` writes it: undo your "
            "changes, or set another run.name"
        ) from error


def read_start_time(pid: int) -> int | None:
    """Return the start time of a process, which detects a reused pid; None if it has ended."""
    found = read_process_stat(pid)
    return found[1] if found and found[0] not in "ZX" else None


def _read_content(sweep: Path) -> Any:
    content = read_object(sweep / LIST)
    check_types(content, _List)
    for trial in content["trials"]:
        check_types(trial, _ListedTrial)
    return content


def _read_name(path: str) -> str:
    """Return the last part of a path; raises ValueError if no file can have this name."""
    name = Path(path).name
    if not name or name == ".." or "\0" in name:
        raise ValueError(f"{path!r} is not the name of a file")
    os.fsencode(name)
    return name
