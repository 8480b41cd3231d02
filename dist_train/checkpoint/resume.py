"""Where a run starts: at zero, or at a checkpoint that rank 0 reads and sends to all."""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from dist_train.checkpoint import serialization
from dist_train.checkpoint.serialization import Checkpoint, Files
from dist_train.checkpoint.store import Store, find
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError, DamagedError
from dist_train.execution.auto_settings import Choices
from dist_train.run_dir import RunDir
from dist_train.settings.renames import translate_settings
from dist_train.settings.schema import Config, flatten

_log = logging.getLogger(__name__)

# Another value of these would make another training of it: other data in other batches, other weights.
_FIXED = (
    "model",
    "run.seed",
    "data.name",
    "data.global_batch",
    "data.validation",
    "data.normalize",
    "data.augment",
    "data.resize",
    "data.limit_train",
    "data.limit_test",
    "data.shape",
    "data.num_classes",
    "data.num_train",
    "data.num_test",
    "optim.name",
)
# Where a run lies and how it starts are no settings of the training.
_IGNORED = ("run.name", "run.dir", "run.resume")


def load(config: Config, run: RunDir, world: World, anew: bool = False) -> Files | None:
    """The content of the checkpoint to go on from, on every rank; None for a start at zero.

    Only rank 0 reads, so no disk has to be shared.

    Args:
        anew: leave an earlier run in the directory alone, and start at zero.

    Raises:
        CheckpointError: `run.resume` leads to no checkpoint, none is whole, or its settings can't be changed so.
    """
    source: Checkpoint | None = None
    contents: dict[str, bytes] = {}
    is_own = True
    with world.agreement():
        source = _source(config, run) if world.is_main and not anew else None
        if source:
            contents = source.contents
            is_own = source.place.parent.resolve() == run.checkpoints.resolve()
            _check_settings(source.files, config, source.place)
    about = json.dumps({"names": list(contents), "is_own": is_own}).encode()
    sent = json.loads(world.broadcast_bytes(about if world.is_main else None))
    received = {name: world.broadcast_bytes(contents.get(name)) for name in sent["names"]}
    if not received:
        return None
    files = source.files if source else serialization.decode_files(received)
    if not sent["is_own"]:
        files["training.pt"].update(best_accuracy=None, best_step=None)  # those are the other run's
    return files


def _source(config: Config, run: RunDir) -> Checkpoint | None:
    """The checkpoint to go on from. A run that has one of its own never goes back to where it was forked from."""
    own = _newest_own(run)
    given = None if config.run.resume in ("auto", "never") else Path(config.run.resume)
    if own is None:
        return _given(given) if given else None
    newest = own.place
    if given and given.resolve().parent == run.checkpoints.resolve() and given.resolve() != newest.resolve():
        raise CheckpointError(
            f"run.resume is {given}, but this run goes on from its newest checkpoint, {newest.name}. To go back, start "
            f"another run from it: run.name={config.run.name}-2 run.resume={given}"
        )
    if given and given.resolve() != run.path.resolve():
        _log.info("run.resume=%s is where a run starts; this one goes on from its own %s", given, newest.name)
    return own


def _newest_own(run: RunDir) -> Checkpoint | None:
    """The run's newest checkpoint that is whole, None where there is none at all.

    Those that are damaged stay where they are: the run is not claimed yet, and another process may be saving there.
    """
    found, faults = Store(run.checkpoints).newest(serialization.load)
    if faults and found is None:
        raise CheckpointError(
            f"run.dir {run.path}: has checkpoints, and none of them loads:\n"
            + "".join(f"  {error}\n" for error in faults.values())
            + "Put back whole ones, or start anew with run.resume=never, which moves the old run aside."
        )
    for error in faults.values():
        _log.warning("%s. The checkpoint before it is used", error)
    if found is None and any(Store(run.checkpoints).quarantined.glob("step_*")):
        raise CheckpointError(
            f"run.dir {run.path}: has only checkpoints that were set aside as damaged, in checkpoints/quarantine. Put "
            "back a whole one, or start anew with run.resume=never, which moves the old run aside."
        )
    return found


def _given(path: Path) -> Checkpoint:
    try:
        return serialization.load(find(path))
    except DamagedError as error:
        raise CheckpointError(f"{error}. Set run.resume to a checkpoint that is whole") from error


def _check_settings(files: Files, config: Config, source: Path) -> None:
    changed = _changed(files, config)
    if fixed := [key for key in changed if any(key == name or key.startswith(f"{name}.") for name in _FIXED)]:
        values = {key: changed[key] for key in fixed}
        lines = [f"  {key}: {before} in the checkpoint, {now} now" for key, (before, now) in values.items()]
        raise CheckpointError(
            f"{source}: was trained with other settings, which a resumed run can't change:\n" + "\n".join(lines) + "\n"
            "Set them back, give the run another name (run.name=...), or start it anew (run.resume=never, which moves "
            "the old one aside)."
        )


def changed_settings(files: Files, config: Config) -> list[str]:
    """The settings that differ from those of the checkpoint, each with its two values."""
    return [f"{key}: {before} -> {now}" for key, (before, now) in _changed(files, config).items()]


def _changed(files: Files, config: Config) -> dict[str, tuple[str, str]]:
    before = translate_settings(flatten(files["training.pt"]["settings"]))
    now = flatten(config.model_dump())
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in _IGNORED]
    return {key: (_shown(before, key), _shown(now, key)) for key in keys}


def _shown(settings: dict[str, Any], key: str) -> str:
    """A value as YAML has it."""
    return json.dumps(settings[key]).strip('"') if key in settings else "not set"


def set_aside_damaged(run: RunDir, step: int) -> None:
    """Move to quarantine what `load` has passed over to get to the checkpoint of `step`. The run has to be claimed.

    Raises:
        CheckpointError: another process has saved in the run's directory after `load` and before it was claimed.
    """
    own = Store(run.checkpoints)
    for later in reversed(own.steps()):
        if later == step:
            return
        try:
            serialization.load(own.place(later))
        except DamagedError as error:
            _quarantine(own, later, str(error))
        else:
            raise CheckpointError(
                f"run.dir {run.path}: another process has trained there meanwhile, to step {later}; give the same "
                "command again"
            )


def _quarantine(own: Store, step: int, reason: str) -> None:
    try:
        _log.warning("%s is now %s", own.place(step), own.quarantine(step, reason))
    except OSError as error:
        _log.warning("%s: can't be moved to quarantine: %s", own.place(step), error.strerror)


def choices(files: Files | None) -> dict[str, Any] | None:
    """What the checkpoint has chosen where the settings say `auto`."""
    return dict(files["training.pt"]["choices"]) if files else None


def about(config: Config, made: Choices, world: World) -> dict[str, Any]:
    """What a checkpoint says of the run that wrote it, for `load` to compare with the run that reads it."""
    return {"settings": config.model_dump(), "choices": made.to_dict(), "machine": _machine(config, made, world)}


def other_bits(files: Files, config: Config, made: Choices, world: World) -> list[str]:
    """What the bits of the result depend on and has changed since the checkpoint was written."""
    before, now = files["training.pt"]["machine"], _machine(config, made, world)
    # What a checkpoint does not say was not thought of when it was written, and has not changed for all we know.
    return [f"{key} {before[key]} -> {value}" for key, value in now.items() if before.get(key, value) != value]


def _machine(config: Config, made: Choices, world: World) -> dict[str, Any]:
    return {
        "torch": str(torch.__version__),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        # Where there are shards, the ranks that compute them may be any number.
        "world_size": world.size if config.shards is None else None,
        "shards": config.shards,
        "threads": made.threads,
        "channels_last": made.channels_last,
        "onednn": made.onednn,
        "compile": config.train.compile,
        "compile_mode": config.train.compile_mode,
        "compression": "none" if made.shared_memory else config.distributed.compression,
        # Of two ranks too: the sums are the same then, but they lie elsewhere, by which norm and update round.
        "shared_memory": made.shared_memory if config.shards is None else None,
    }
