"""A sweep: a grid of settings with a directory of its own, `<run.dir>.sweep/`, and a run for each of its trials.

sweep.json       config, overrides, axes, trials: [{"number": 0, "overrides": ["optim.lr=0.1"], "dir": ".../0-lr=0.1"}]
digits.yaml      CONFIG as it was when the sweep was begun; all trials train it
0-lr=0.1/ ...    the runs
jobs/            the job arrays, as those of a run
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dist_train.errors import ConfigError
from dist_train.system.process import state_and_start

LIST, LOCK = "sweep.json", "sweep.lock"


@dataclass(frozen=True)
class Trial:
    sweep: Path
    number: int
    """Of the task of the job array too, where the sweep was submitted as one."""
    overrides: tuple[str, ...]
    path: Path
    """The directory of its run, which may not be there yet."""


class SweepRecord(NamedTuple):
    """What the directory of a sweep knows."""

    config: Path
    """Copy of CONFIG."""
    common: tuple[str, ...]
    """Overrides of all trials."""
    axes: Mapping[str, tuple[str, ...]]
    """Settings that vary, and their values."""
    trials: tuple[Trial, ...]


def is_sweep(directory: Path) -> bool:
    return (directory / LIST).is_file()


def find_worker(sweep: Path) -> int | None:
    """The process of this machine that works in a sweep's directory; None where there is none."""
    try:
        holder = json.loads((sweep / LOCK).read_text(encoding="utf-8"))
        is_here = holder["host"] == socket.gethostname() and holder["start"] is not None
        return int(holder["pid"]) if is_here and read_start_time(holder["pid"]) == holder["start"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_trials(sweep: Path) -> list[Trial]:
    """The trials of a sweep by their numbers. They lie in its directory, wherever that was moved.

    Raises:
        ConfigError: its `sweep.json` can't be read.
    """
    with _report_damage(sweep):
        found = [
            Trial(sweep, int(one["number"]), tuple(map(str, one["overrides"])), sweep / Path(one["dir"]).name)
            for one in _read_content(sweep)["trials"]
        ]
    return sorted(found, key=lambda trial: trial.number)


def find_trial(run: Path) -> Trial | None:
    """The trial whose run lies in `run`; None where that is none of a sweep."""
    place = run.absolute()
    listed = read_trials(place.parent) if is_sweep(place.parent) else []
    return next((trial for trial in listed if trial.path.name == place.name), None)


def read_record(directory: Path) -> SweepRecord:
    with _report_damage(directory):
        content = _read_content(directory)
        axes = {str(key): tuple(map(str, values)) for key, values in content["axes"].items()}
        config, common = directory / Path(content["config"]).name, tuple(map(str, content["overrides"]))
    return SweepRecord(config, common, axes, tuple(read_trials(directory)))


@contextmanager
def _report_damage(sweep: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{sweep / LIST}: is no list of trials: {error!r}. Only `dist-train sweep` writes it: undo what was "
            "changed, or give the sweep another run.name"
        ) from error


def read_start_time(pid: int) -> int | None:
    """When a process has started, by which it is told from a later one of the same number; None if it is over."""
    found = state_and_start(pid)
    return found[1] if found and found[0] not in "ZX" else None


def _read_content(sweep: Path) -> Any:
    return json.loads((sweep / LIST).read_text(encoding="utf-8"))
