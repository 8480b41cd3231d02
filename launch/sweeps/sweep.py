"""A sweep: the trials of a grid, checked and joined with those that its directory has already."""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir, write_whole
from launch.sweeps.grid import Grid, build_directory_name
from launch.sweeps.sweep_dir import LIST, LOCK, SweepRecord, Trial, is_sweep, read_record, read_start_time, read_trials

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


@dataclass(frozen=True)
class Sweep:
    """A grid that was checked, and its directory, in which nothing is written before `claimed`."""

    directory: Path
    source: Path
    """CONFIG as given."""
    record: SweepRecord
    """What the directory is to know; a grid in the directory of an earlier one joins it."""
    trials: tuple[Trial, ...]
    """Of this grid."""
    settings: tuple["Config", ...]
    """Of each of them."""

    @classmethod
    def open(cls, source: Path, grid: Grid, check: Callable[["Config"], None]) -> "Sweep":
        """Check all trials of a grid, and find those that are there already.

        Args:
            source: CONFIG.
            check: raises ConfigError for settings that can't be trained where the trials are going to be.

        Raises:
            ConfigError: with all faults of all trials; or the directory holds something else, or a sweep of other
                settings.
        """
        settings = check_trials(source, grid.common, grid.trials(), check)
        directory = Path(f"{Path(settings[0].run.dir)}.sweep")
        if settings[0].run.resume == "never":
            raise ConfigError(
                f"run.resume is never, and a sweep goes on. To begin {directory} anew, remove it; or set another "
                "run.name"
            )
        if is_sweep(directory):
            record = read_record(directory)
            _check_same(directory, record, grid, settings)
        else:
            record = SweepRecord(directory / source.name, grid.common, {}, ())
            _check_empty(directory)
        known = {_identify(_load_settings(record, trial.overrides)): trial for trial in record.trials}
        numbers = count(1 + max((trial.number for trial in known.values()), default=-1))
        trials = tuple(
            known.get(_identify(each)) or _build_trial(directory, next(numbers), overrides)
            for each, overrides in zip(settings, grid.trials(), strict=True)
        )
        return cls(directory, source, _join(record, grid, trials), trials, settings)

    def find_unfinished(self) -> list[Trial]:
        """The trials of the grid that are not done, by their numbers."""
        left = [each for each in self.trials if (RunDir(each.path).read_status() or {}).get("state") != "done"]
        return sorted(left, key=lambda trial: trial.number)

    def shared_overrides(self) -> tuple[str, ...]:
        """The overrides that all trials are started with."""
        return tuple(each for each in self.record.common if not each.startswith("run.dir="))

    def build_overrides(self, trial: Trial) -> tuple[str, ...]:
        """The overrides that only this trial is started with."""
        return (*trial.overrides, f"run.dir={trial.path}")

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Write down the sweep, and keep others out of its directory meanwhile.

        Raises:
            ConfigError: it can't be written, or another sweep works there.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / LOCK).open("a")
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
            raise ConfigError(f"{self.directory}: another sweep works there; wait for its end") from error
        except OSError:
            pass  # a file system that knows no locks; a run's own check keeps two from training it

    def _write(self) -> None:
        if is_sweep(self.directory) and not set(read_trials(self.directory)) <= set(self.record.trials):
            raise ConfigError(f"{self.directory}: another grid has just joined it; give the command again")
        content = {
            "config": self.record.config.name,
            "overrides": self.record.common,
            "axes": self.record.axes,
            "trials": [
                {"number": each.number, "overrides": each.overrides, "dir": str(each.path)}
                for each in self.record.trials
            ],
        }
        if not self.record.config.exists():
            shutil.copyfile(self.source, self.record.config)
        write_whole(self.directory / LIST, json.dumps(content, indent=2) + "\n")

    def _build_write_error(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.directory}: can't be written: {error.strerror or error}; set run.dir to another directory"
        )


def check_trials(
    config: Path, common: Sequence[str], trials: Sequence[Sequence[str]], check: Callable[["Config"], None]
) -> tuple["Config", ...]:
    """The settings of each trial.

    Raises:
        ConfigError: with the faults of all of them, each once; or two are the same.
    """
    from dist_train.settings.loader import load_config

    settings, faults, seen = [], dict[str, None](), dict[str, str]()
    for overrides in trials:
        try:
            settings.append(found := load_config(config, [*common, *overrides]))
            check(found)
        except ConfigError as error:
            faults |= dict.fromkeys(str(error).splitlines())
            continue
        text = " ".join(overrides)
        if (twin := seen.setdefault(_identify(found), text)) is not text:
            faults[f"{twin} and {text}: the same trial; leave one of these values out"] = None
    if faults:
        raise ConfigError("\n".join(faults))
    return tuple(settings)


def _write_owner(lock: TextIO) -> None:
    """Say whose lock it is, for `worker`."""
    lock.truncate(0)
    lock.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": read_start_time(os.getpid())}))
    lock.flush()


def _check_empty(directory: Path) -> None:
    if directory.exists() and {path.name for path in directory.iterdir()} - {LOCK}:
        raise ConfigError(f"{directory}: holds files and no sweep; move it away, or set another run.name")


def _check_same(directory: Path, record: SweepRecord, grid: Grid, settings: Sequence["Config"]) -> None:
    """Raise ConfigError if CONFIG or the common overrides mean something else than when the sweep was begun."""
    from dist_train.settings.schema import flatten

    changes: dict[str, None] = {}
    for overrides, config in zip(grid.trials(), settings, strict=True):
        before, now = (flatten(each.model_dump()) for each in (_load_settings(record, overrides), config))
        keys = [key for key in {**before, **now} if key != "run.dir" and before.get(key) != now.get(key)]
        changes |= dict.fromkeys(f"  {key}: {before.get(key)} then, {now.get(key)} now" for key in keys)
    if changes:
        raise ConfigError(
            f"{directory}: was begun with other settings, and all its trials have to share them:\n"
            + "\n".join(changes)
            + "\nSet them back, give this sweep another run.name, or remove the directory"
        )


def _load_settings(record: SweepRecord, overrides: Sequence[str]) -> "Config":
    from dist_train.settings.loader import load_config

    return load_config(record.config, [*record.common, *overrides])


def _identify(config: "Config") -> str:
    """What makes two trials the same."""
    return config.model_dump_json(exclude={"run": {"dir"}})


def _build_trial(directory: Path, number: int, overrides: tuple[str, ...]) -> Trial:
    return Trial(directory, number, overrides, directory / build_directory_name(number, overrides))


def _join(record: SweepRecord, grid: Grid, trials: Sequence[Trial]) -> SweepRecord:
    """What a sweep knows once a grid has joined it."""
    axes = {
        key: tuple(dict.fromkeys((*record.axes.get(key, ()), *grid.axes.get(key, ()))))
        for key in {**record.axes, **grid.axes}
    }
    return record._replace(axes=axes, trials=tuple(dict.fromkeys((*record.trials, *trials))))
