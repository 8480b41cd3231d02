"""The settings of runs, from their `config.yaml`, and how those of two runs differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dist_train.errors import ConfigError
from dist_train.eval_line import Monitor, choose_name, find_mode
from dist_train.own_code.reference import parse_reference
from dist_train.run_dir import RunDir
from dist_train.system.read_file import read_object

OWN = ("run.name", "run.dir", "run.resume", "data.cache", "log.progress", "log.tensorboard")
"""Settings that may differ without a difference in training."""


def read_settings(run: Path) -> Mapping[str, Any]:
    """Return the settings by their dotted keys, with today's names; empty if they can't be read."""
    from dist_train.settings.loading.renames import translate_settings
    from dist_train.settings.loading.strict_yaml import read_file
    from dist_train.settings.schema import flatten

    try:
        return translate_settings(flatten(read_file(RunDir(run).config)[0].to_plain()))
    except ConfigError:
        return {}


def read_global_batch(run: Path) -> int | None:
    """Return `data.global_batch`; None if the settings can't be read."""
    found = read_settings(run).get("data.global_batch")
    return found if type(found) is int else None


def read_monitor(run: Path, line: Mapping[str, Any]) -> Monitor:
    """Return the number by which a run is judged; of settings that can't be read, as its evaluations say.

    Args:
        line: of an evaluation; empty if there is none.
    """
    settings = read_settings(run)
    name, mode = settings.get("checkpoint.monitor"), settings.get("checkpoint.mode")
    if not isinstance(name, str):
        is_own = parse_reference(str(settings.get("task"))) is not None
        name = "loss" if is_own else choose_name(line)
    return Monitor(name, mode if mode in ("max", "min") else find_mode(name))


def list_differences(first: Path, second: Path) -> list[str]:
    """Return the settings that two runs do not share, as `optim.lr: 0.1 and 0.2`; none if those of one are unknown."""
    from dist_train.settings.loading.values import format_value

    one, other = read_settings(first), read_settings(second)
    keys = [key for key in {**one, **other} if key not in OWN and one.get(key) != other.get(key)]
    if not one or not other:
        return []
    return [f"{key}: {format_value(one.get(key))} and {format_value(other.get(key))}" for key in keys]


def describe_gpu_bits(*runs: Path) -> str | None:
    """Explain why bits may differ if one of the runs used a GPU without deterministic kernels; else return None."""
    if not any(_was_on_gpu(run) and not _is_deterministic(read_settings(run)) for run in runs):
        return None
    return (
        "on a GPU without run.deterministic=true, kernels and NCCL may add up in another order at each start, and the "
        "last bits of loss, gradients and weights differ without a fault; samples and learning rates are the same"
    )


def _was_on_gpu(run: Path) -> bool:
    try:
        return bool(read_object(RunDir(run).environment).get("device", "cpu") != "cpu")
    except (OSError, ValueError):
        return False


def _is_deterministic(settings: Mapping[str, Any]) -> bool:
    return settings.get("run.deterministic") is True or settings.get("run.reproducible") == "bitwise"
