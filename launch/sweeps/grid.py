"""A grid: which settings vary, what each of its trials has of them, and what a trial's directory is called."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from dist_train.errors import ConfigError

MAX_NAME_BYTES = (
    200  # bytes of a directory's name; file systems take 255, and a run may be moved aside to <name>.old-<n>
)
CANNOT_VARY = {
    "run.name": "each trial has a directory of its own; give one name to all of them",
    "run.dir": "each trial has a directory of its own; give one to all of them, beside which they lie",
    "run.resume": "start a sweep from each checkpoint, with another run.name",
}
"""Settings that can't vary, and what to do instead."""
NO_AXIS = (
    "a sweep needs a setting with several values, and commas between them: optim.lr=0.05,0.1,0.2; brackets hold a list "
    "together: data.shape=[1,28,28],[3,32,32]"
)


@dataclass(frozen=True)
class Grid:
    """Overrides of which some have several values."""

    common: tuple[str, ...]
    """What all trials have."""
    axes: Mapping[str, tuple[str, ...]]
    """The values of each setting that varies, in their order."""

    @classmethod
    def parse(cls, overrides: Sequence[str]) -> "Grid":
        """Read `optim.lr=0.05,0.1 train.epochs=5`: what has commas outside of brackets and quotes varies.

        Raises:
            ConfigError: nothing varies, or something that can't; a value is empty; a setting is there twice.
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

    def trials(self) -> list[tuple[str, ...]]:
        """The overrides of each trial, without the common ones; the last setting varies fastest."""
        axes = ([f"{key}={text}" for text in texts] for key, texts in self.axes.items())
        return list(product(*axes))


def split_values(text: str) -> tuple[str, ...]:
    """What the commas of a value separate; those in brackets, braces and quotes are its own."""
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
    """Name of a trial's directory, such as `0-lr=0.05-global_batch=256`; its number makes it unique."""
    keys = [each.partition("=")[0] for each in overrides]
    last = [key.rpartition(".")[2] for key in keys]
    names = last if len(set(last)) == len(last) else keys
    parts = [f"{name}={each.partition('=')[2]}" for name, each in zip(names, overrides, strict=True)]
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", "-".join([str(number), *parts]))[:MAX_NAME_BYTES]


def _find_faults(key: str, texts: tuple[str, ...], override: str) -> list[str]:
    """What is wrong with one setting of a sweep."""
    faults = []
    if len(texts) > 1 and key in CANNOT_VARY:
        faults.append(f"{override}: {key} can't vary in a sweep: {CANNOT_VARY[key]}")
    if len(texts) > 1 and "" in texts:
        faults.append(f"{override}: one of its values is empty; write {key}={','.join(filter(None, texts))}")
    if "\n" in override:
        faults.append(f"{override!r}: holds a line break, which no setting of a sweep can")
    return faults
