"""Plan a sweep: check the trials of a grid, and join them with those already in the directory."""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from dist_train.errors import ConfigError
from dist_train.recipes import copy_settings
from dist_train.run_dir import write_atomically
from dist_train.system.escape import escape
from dist_train.system.read_file import explain, list_directory, open_at_once
from launch.runs.find import read_status
from launch.sweeps.grid import Grid, build_directory_name
from launch.sweeps.sweep_dir import (
    LIST,
    LOCK,
    Holder,
    SweepRecord,
    Trial,
    is_sweep,
    read_record,
    read_start_time,
    read_trials,
)

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


@dataclass(frozen=True)
class Sweep:
    """A checked grid and its directory; nothing is written before `claim`."""

    directory: Path
    source: Path
    """Path of CONFIG."""
    record: SweepRecord
    """The next content of `sweep.json`: earlier trials and those of this grid."""
    trials: tuple[Trial, ...]
    """The trials of this grid."""
    settings: tuple["Config", ...]
    """The settings of each of these trials."""

    @classmethod
    def plan(cls, source: Path, grid: Grid, check: Callable[["Config"], None]) -> "Sweep":
        """Check all trials of a grid, and find those that the directory has already.

        Args:
            source: path of CONFIG.
            grid: common overrides and axes.
            check: raises ConfigError for settings that can't be trained on the chosen machines.

        Raises:
            ConfigError: with all faults of all trials; or the directory has other files, or a sweep of other settings.
        """
        settings = load_settings(source, grid, check)
        directory = Path(f"{Path(settings[0].run.dir)}.sweep")
        if settings[0].run.resume == "never":
            raise ConfigError(
                f"run.resume is never, but a sweep always resumes. To start again, remove {directory}, or set another "
                "run.name"
            )
        if is_sweep(directory):
            record = read_record(directory)
            _check_same(directory, record, grid, settings)
        else:
            record = SweepRecord(directory / source.name, grid.common, {}, ())
            _check_empty(directory)
        known = {_identify(_load_recorded(record, trial.overrides)): trial for trial in record.trials}
        numbers = count(1 + max((trial.number for trial in known.values()), default=-1))
        trials = tuple(
            known.get(_identify(each)) or _build_trial(directory, next(numbers), overrides)
            for each, overrides in zip(settings, grid.combine(), strict=True)
        )
        return cls(directory, source, _join(record, grid, trials), trials, settings)

    def find_unfinished(self) -> list[Trial]:
        """Return the trials of the grid that are not done, sorted by number."""
        unfinished = [each for each in self.trials if read_status(each.path)[0].get("state") != "done"]
        return sorted(unfinished, key=lambda trial: trial.number)

    @property
    def shared_overrides(self) -> tuple[str, ...]:
        """The overrides of all trials."""
        return tuple(each for each in self.record.common if not each.startswith("run.dir="))

    def build_overrides(self, trial: Trial) -> tuple[str, ...]:
        """Return the overrides of one trial alone."""
        return (*trial.overrides, f"run.dir={trial.path}")

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Write `sweep.json` and hold the lock of the directory.

        Raises:
            ConfigError: the directory can't be written, or another sweep has the lock.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = open(self.directory / LOCK, "a", opener=open_at_once)  # noqa: SIM115 (`with` below)
        except OSError as error:
            raise self._build_write_error(error) from error
        with lock:
            self._lock(lock)
            try:
                _write_owner(lock)
                self._write()
            except OSError as error:
                raise self._build_write_error(error) from error
            yield

    def _lock(self, lock: TextIO) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{self.directory}: is in use by another sweep; wait for its end") from error
        except OSError:
            pass  # a file system without locks; the check of each run prevents training it twice

    def _write(self) -> None:
        if is_sweep(self.directory) and not set(read_trials(self.directory)) <= set(self.record.trials):
            raise ConfigError(f"{self.directory}: trials of another grid were added just now; run the command again")
        content = {
            "config": self.record.config.name,
            "overrides": self.record.common,
            "axes": self.record.axes,
            "trials": [
                {"number": each.number, "overrides": each.overrides, "dir": str(each.path)}
                for each in self.record.trials
            ],
        }
        if not os.path.lexists(self.record.config):
            copy_settings(self.source, self.record.config)
        write_atomically(self.directory / LIST, json.dumps(content, indent=2) + "\n")

    def _build_write_error(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{escape(self.directory)}: can't be written: {explain(error)}; set run.dir to another directory"
        )


def load_settings(config: Path, grid: Grid, check: Callable[["Config"], None]) -> tuple["Config", ...]:
    """Load and check the settings of each trial of a grid.

    Raises:
        ConfigError: with the faults of all trials, each once; or two trials are equal.
    """
    from dist_train.settings.loader import load_config

    settings, faults, seen = [], dict[str, None](), dict[str, str]()
    for overrides in grid.combine():
        try:
            settings.append(found := load_config(config, [*grid.common, *overrides]))
            check(found)
        except ConfigError as error:
            faults |= dict.fromkeys(str(error).splitlines())
            continue
        text = " ".join(overrides)
        if (twin := seen.setdefault(_identify(found), text)) is not text:
            faults[f"{twin} and {text}: the same trial; remove one of these values"] = None
    if faults:
        raise ConfigError("\n".join(faults))
    return tuple(settings)


def _write_owner(lock: TextIO) -> None:
    """Write host, process and start time to the lock file, for `find_worker`."""
    lock.truncate(0)
    lock.write(json.dumps(asdict(Holder(socket.gethostname(), os.getpid(), read_start_time(os.getpid())))))
    lock.flush()


def _check_empty(directory: Path) -> None:
    if {path.name for path in list_directory(directory)} - {LOCK}:
        raise ConfigError(f"{escape(directory)}: has files but no sweep.json; move it away, or set another run.name")


def _check_same(directory: Path, record: SweepRecord, grid: Grid, settings: Sequence["Config"]) -> None:
    """Raise ConfigError if CONFIG or the common overrides differ from those with which the sweep was begun."""
    from dist_train.settings.schema import flatten

    changes: dict[str, None] = {}
    for overrides, config in zip(grid.combine(), settings, strict=True):
        before, now = (flatten(each.model_dump()) for each in (_load_recorded(record, overrides), config))
        keys = [key for key in {**before, **now} if key != "run.dir" and before.get(key) != now.get(key)]
        changes |= dict.fromkeys(f"  {key}: was {before.get(key)}, is now {now.get(key)}" for key in keys)
    if changes:
        raise ConfigError(
            f"{directory}: was begun with other settings, and all its trials must share them:\n"
            + "\n".join(changes)
            + "\nChange them back, set another run.name, or remove the directory"
        )


def _load_recorded(record: SweepRecord, overrides: Sequence[str]) -> "Config":
    from dist_train.settings.loader import load_config

    return load_config(record.config, [*record.common, *overrides])


def _identify(config: "Config") -> str:
    """Return a text that is equal for equal trials."""
    return json.dumps(config.model_dump(exclude={"run": {"dir"}}))


def _build_trial(directory: Path, number: int, overrides: tuple[str, ...]) -> Trial:
    return Trial(directory, number, overrides, directory / build_directory_name(number, overrides))


def _join(record: SweepRecord, grid: Grid, trials: Sequence[Trial]) -> SweepRecord:
    """Add the axes and trials of a grid to a record."""
    axes = {
        key: tuple(dict.fromkeys((*record.axes.get(key, ()), *grid.axes.get(key, ()))))
        for key in {**record.axes, **grid.axes}
    }
    return record._replace(axes=axes, trials=tuple(dict.fromkeys((*record.trials, *trials))))
