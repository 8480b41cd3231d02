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
from launch.sweeps.grid import Grid, directory_name
from launch.sweeps.sweep_dir import LIST, LOCK, Begun, Trial, is_sweep, read_begun, start_time, trials

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


@dataclass(frozen=True)
class Sweep:
    """A grid that was checked, and its directory, in which nothing is written before `claimed`."""

    directory: Path
    source: Path
    """CONFIG as given."""
    begun: Begun
    """What the directory is to know; a grid in the directory of an earlier one joins it."""
    trials: tuple[Trial, ...]
    """Of this grid."""
    settings: tuple["Config", ...]
    """Of each of them."""

    @classmethod
    def of(cls, source: Path, grid: Grid, check: Callable[["Config"], None]) -> "Sweep":
        """Check all trials of a grid, and find those that are there already.

        Args:
            source: CONFIG.
            check: raises ConfigError for settings that can't be trained where the trials are going to be.

        Raises:
            ConfigError: with all faults of all trials; or the directory holds something else, or a sweep of other
                settings.
        """
        settings = checked(source, grid.common, grid.trials(), check)
        directory = Path(f"{Path(settings[0].run.dir)}.sweep")
        if settings[0].run.resume == "never":
            raise ConfigError(
                f"run.resume is never, and a sweep goes on. To begin {directory} anew, remove it; or set another "
                "run.name"
            )
        if is_sweep(directory):
            begun = read_begun(directory)
            _check_same(directory, begun, grid, settings)
        else:
            begun = Begun(directory / source.name, grid.common, {}, ())
            _check_empty(directory)
        known = {_identity(_load(begun, trial.overrides)): trial for trial in begun.trials}
        numbers = count(1 + max((trial.number for trial in known.values()), default=-1))
        trials = tuple(
            known.get(_identity(each)) or _trial(directory, next(numbers), overrides)
            for each, overrides in zip(settings, grid.trials(), strict=True)
        )
        return cls(directory, source, _joined(begun, grid, trials), trials, settings)

    def left(self) -> list[Trial]:
        """The trials of the grid that are not done, by their numbers."""
        left = [each for each in self.trials if (RunDir(each.path).read_status() or {}).get("state") != "done"]
        return sorted(left, key=lambda trial: trial.number)

    def shared(self) -> tuple[str, ...]:
        """The overrides that all trials are started with."""
        return tuple(each for each in self.begun.common if not each.startswith("run.dir="))

    def own(self, trial: Trial) -> tuple[str, ...]:
        """The overrides that only this trial is started with."""
        return (*trial.overrides, f"run.dir={trial.path}")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Write down the sweep, and keep others out of its directory meanwhile.

        Raises:
            ConfigError: it can't be written, or another sweep works there.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / LOCK).open("a")
        except OSError as error:
            raise self._refused(error) from error
        with lock:
            self._lock(lock)
            try:
                _sign(lock)
                self._write()
            except OSError as error:
                raise self._refused(error) from error
            yield

    def _lock(self, lock: TextIO) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{self.directory}: another sweep works there; wait for its end") from error
        except OSError:
            pass  # a file system that knows no locks; a run's own check keeps two from training it

    def _write(self) -> None:
        if is_sweep(self.directory) and not set(trials(self.directory)) <= set(self.begun.trials):
            raise ConfigError(f"{self.directory}: another grid has just joined it; give the command again")
        content = {
            "config": self.begun.config.name,
            "overrides": self.begun.common,
            "axes": self.begun.axes,
            "trials": [
                {"number": each.number, "overrides": each.overrides, "dir": str(each.path)}
                for each in self.begun.trials
            ],
        }
        if not self.begun.config.exists():
            shutil.copyfile(self.source, self.begun.config)
        write_whole(self.directory / LIST, json.dumps(content, indent=2) + "\n")

    def _refused(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.directory}: can't be written: {error.strerror or error}; set run.dir to another directory"
        )


def checked(
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
        if (twin := seen.setdefault(_identity(found), text)) is not text:
            faults[f"{twin} and {text}: the same trial; leave one of these values out"] = None
    if faults:
        raise ConfigError("\n".join(faults))
    return tuple(settings)


def _sign(lock: TextIO) -> None:
    """Say whose lock it is, for `worker`."""
    lock.truncate(0)
    lock.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": start_time(os.getpid())}))
    lock.flush()


def _check_empty(directory: Path) -> None:
    if directory.exists() and {path.name for path in directory.iterdir()} - {LOCK}:
        raise ConfigError(f"{directory}: holds files and no sweep; move it away, or set another run.name")


def _check_same(directory: Path, begun: Begun, grid: Grid, settings: Sequence["Config"]) -> None:
    """Raise ConfigError if CONFIG or the common overrides mean something else than when the sweep was begun."""
    from dist_train.settings.schema import flatten

    changes: dict[str, None] = {}
    for overrides, config in zip(grid.trials(), settings, strict=True):
        before, now = (flatten(each.model_dump()) for each in (_load(begun, overrides), config))
        keys = [key for key in {**before, **now} if key != "run.dir" and before.get(key) != now.get(key)]
        changes |= dict.fromkeys(f"  {key}: {before.get(key)} then, {now.get(key)} now" for key in keys)
    if changes:
        raise ConfigError(
            f"{directory}: was begun with other settings, and all its trials have to share them:\n"
            + "\n".join(changes)
            + "\nSet them back, give this sweep another run.name, or remove the directory"
        )


def _load(begun: Begun, overrides: Sequence[str]) -> "Config":
    from dist_train.settings.loader import load_config

    return load_config(begun.config, [*begun.common, *overrides])


def _identity(config: "Config") -> str:
    """What makes two trials the same."""
    return config.model_dump_json(exclude={"run": {"dir"}})


def _trial(directory: Path, number: int, overrides: tuple[str, ...]) -> Trial:
    return Trial(directory, number, overrides, directory / directory_name(number, overrides))


def _joined(begun: Begun, grid: Grid, trials: Sequence[Trial]) -> Begun:
    """What a sweep knows once a grid has joined it."""
    axes = {
        key: tuple(dict.fromkeys((*begun.axes.get(key, ()), *grid.axes.get(key, ()))))
        for key in {**begun.axes, **grid.axes}
    }
    return begun._replace(axes=axes, trials=tuple(dict.fromkeys((*begun.trials, *trials))))
