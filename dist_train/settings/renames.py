"""Settings of earlier versions: what they are called today, and what became of those that were removed.

A file of settings or a command line that uses an old key or value is refused with the new one. What an earlier version
wrote itself, the `config.yaml` of a run and the settings in a checkpoint, is translated.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

RENAMED_KEYS = {
    "log.every": "log.every_steps",
    "log.weights_every": "log.weights_every_steps",
    "checkpoint.every": "checkpoint.every_steps",
    "train.label_smoothing": "loss.args.label_smoothing",
}


def _split_width(width: Any) -> dict[str, Any]:
    if type(width) is not int or width < 1:
        return {}
    return {"model.channels": (6 * width, 16 * width), "model.hidden": (120 * width, 84 * width)}


REPLACED_KEYS: dict[str, Callable[[Any], dict[str, Any]]] = {"model.width": _split_width}
"""Old keys that several replace, with what these are for an old value: nothing for a value that was not allowed."""


class OldValue(NamedTuple):
    """A value that a setting no longer takes."""

    key: str
    value: str
    replacement: str
    advice: str
    """Completes the message `KEY is VALUE; ...`."""


OLD_VALUES = (
    OldValue("data.loader", "resident", "in_memory", "this value is now called in_memory"),
    OldValue(
        "train.compile",
        "step",
        "model",
        "compiling the whole step, with several steps in one call, was removed: use model, which compiles the network",
    ),
)

ADDED_KEYS: dict[str, Any] = {
    "callbacks": [],
    "checkpoint.mode": None,
    "checkpoint.monitor": None,
    "checkpoint.split": "auto",
    "data.accept_changes": False,
    "data.drop_last": False,
    "data.sampling": "uniform",
    "data.shuffle": True,
    "distributed.find_unused_parameters": "auto",
    "loss.name": None,
    "loss.output": None,
    "metrics": None,
    "optim.decay_fraction": 0.2,
    "optim.groups": [],
    "optim.power": 1.0,
    "optim.restart_factor": 1,
    "task": "classification",
    "train.compile_mode": "default",
}
"""Settings that earlier versions did not have, with the value that counts as unchanged."""


UNSET = (("train.label_smoothing", 0.0),)
"""Old keys with the value that is today the same as no setting."""


def find_old_value(key: str, value: Any) -> OldValue | None:
    """The entry for a value that the setting `key` no longer takes, None if there is none."""
    return next((old for old in OLD_VALUES if (old.key, old.value) == (key, value)), None)


def translate_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Rename old keys and values, and add the settings that came later.

    Args:
        flat: dotted keys and values as `flatten` returns them, by this version or an earlier one.
    """
    translated: dict[str, Any] = dict(ADDED_KEYS)
    if flat.get("data.name") == "image_folder":
        translated["data.orientation"] = "exif"
    for key, value in flat.items():
        old = find_old_value(key, value)
        if key in REPLACED_KEYS:
            translated |= {new: list(parts) for new, parts in REPLACED_KEYS[key](value).items()}
        elif (key, value) not in UNSET:
            translated[RENAMED_KEYS.get(key, key)] = old.replacement if old else value
    return translated
