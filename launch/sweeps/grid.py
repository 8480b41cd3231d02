"""Parse the grid of a sweep: settings with several values, and their combinations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from dist_train.errors import ConfigError

MAX_NAME_BYTES = 200  # file systems allow 255, and a run may be moved aside to <name>.old-<n>
CANNOT_VARY = {
    "run.name": "each trial has its own directory; set one name for all of them",
    "run.dir": "each trial has its own directory; set one directory for the whole sweep",
    "run.resume": "start one sweep per checkpoint, each with its own run.name",
}
"""Settings that can't vary, and what to do instead."""
NO_AXIS = (
    "a sweep needs a setting with several values, separated by commas: optim.lr=0.05,0.1,0.2; a list is one value: "
    "data.shape=[1,28,28],[3,32,32]"
)


@dataclass(frozen=True)
class Grid:
    """Common overrides, and the values of the settings that vary."""

    common: tuple[str, ...]
    """The overrides of all trials."""
    axes: Mapping[str, tuple[str, ...]]
    """The values of each setting that varies, in the given order."""

    @classmethod
    def parse(cls, overrides: Sequence[str]) -> "Grid":
        """Parse `optim.lr=0.05,0.1 train.epochs=5`; a setting with commas outside brackets and quotes varies.

        Raises:
            ConfigError: no setting varies, or one that can't; a value is empty; a setting is given twice.
        """
        settings = [
            (key, split_values(text), f"{key}={text}") for key, _, text in (each.partition("=") for each in overrides)
        ]
        axes = {key: texts for key, texts, _ in settings if len(texts) > 1}
        keys = [key for key, *_ in settings]
        faults = [fault for setting in settings for fault in _find_faults(*setting)]
        faults += [f"{key} is set twice on the command line" for key in axes if keys.count(key) > 1]
        faults += [] if axes else [NO_AXIS]
        if faults:
            raise ConfigError("\n".join(faults))
        return cls(tuple(each for each in overrides if each.partition("=")[0] not in axes), axes)

    def combine(self) -> list[tuple[str, ...]]:
        """Return the overrides of each trial, without the common ones; the last setting varies fastest."""
        axes = ([f"{key}={text}" for text in texts] for key, texts in self.axes.items())
        return list(product(*axes))


def split_values(text: str) -> tuple[str, ...]:
    """Split a value at its commas, except in brackets, braces and quotes."""
    found, depth, quote = [""], 0, ""
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and text[max(0, at - 1) : at] in ("", *"[{,: "):
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            found.append("")
            continue
        found[-1] += character
    return tuple(each.strip() for each in found)


def build_directory_name(number: int, overrides: Sequence[str]) -> str:
    """Return the directory name of a trial, e.g. `0-lr=0.05-global_batch=256`."""
    keys = [each.partition("=")[0] for each in overrides]
    last = [key.rpartition(".")[2] for key in keys]
    names = last if len(set(last)) == len(last) else keys
    parts = [f"{name}={each.partition('=')[2]}" for name, each in zip(names, overrides, strict=True)]
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", "-".join([str(number), *parts]))[:MAX_NAME_BYTES]


def _find_faults(key: str, texts: tuple[str, ...], override: str) -> list[str]:
    """Return the faults of one setting of a sweep."""
    faults = []
    if len(texts) > 1 and key in CANNOT_VARY:
        faults.append(f"{override}: {key} can't vary in a sweep: {CANNOT_VARY[key]}")
    if len(texts) > 1 and "" in texts:
        faults.append(f"{override}: one of its values is empty; write {key}={','.join(filter(None, texts))}")
    if "\n" in override:
        faults.append(f"{override!r}: contains a line break, which a sweep does not support")
    return faults
