"""The trials of a sweep, as its `sweep.json` lists them.

{"trials": [{"number": 0, "overrides": ["optim.lr=0.1"], "dir": "runs/x.sweep/0-lr=0.1"}, ...]}
"""

import json
from dataclasses import dataclass
from pathlib import Path

from dist_train.errors import ConfigError


@dataclass(frozen=True)
class Trial:
    sweep: Path
    number: int
    """Of the task of the job array too, where the sweep was submitted as one."""
    overrides: tuple[str, ...]
    path: Path
    """The directory of its run, which may not be there yet."""


def is_sweep(directory: Path) -> bool:
    return (directory / "sweep.json").is_file()


def trials(sweep: Path) -> list[Trial]:
    """The trials of a sweep by their numbers. They lie in its directory, wherever that was moved.

    Raises:
        ConfigError: its `sweep.json` can't be read.
    """
    try:
        listed = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["trials"]
        found = [
            Trial(sweep, int(one["number"]), tuple(map(str, one["overrides"])), sweep / Path(one["dir"]).name)
            for one in listed
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{sweep / 'sweep.json'}: is no list of trials: {error!r}. Give the `dist-train sweep` command again, "
            "which writes it anew"
        ) from error
    return sorted(found, key=lambda trial: trial.number)


def trial_of(run: Path) -> Trial | None:
    """The trial whose run lies in `run`; None where that is none of a sweep."""
    place = run.absolute()
    listed = trials(place.parent) if is_sweep(place.parent) else []
    return next((trial for trial in listed if trial.path.name == place.name), None)
