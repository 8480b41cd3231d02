"""Find the checkpoint that a run resumes from, send it from rank 0 to all ranks, and compare it with the run."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dist_train.checkpoint import serialization
from dist_train.checkpoint.progress import check_nothing_is_lost, warn_of_lost_checkpoint
from dist_train.checkpoint.serialization import Files, LoadedCheckpoint
from dist_train.checkpoint.store import Store, explain_unwritten, find
from dist_train.data.identity import DataIdentity, compare
from dist_train.data.source import SCALING
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError, DamagedError
from dist_train.execution.auto_settings import AutoSettings
from dist_train.execution.gpu import describe_versions
from dist_train.own_code.copies import Code
from dist_train.own_code.reference import is_same_code
from dist_train.run_dir import RunDir
from dist_train.settings.loading.renames import translate_settings
from dist_train.settings.schema import Config, ImageFolderData, flatten
from dist_train.system.escape import escape

_log = logging.getLogger(__name__)

# A resumed run can't change these: they select the data, the batches and the network.
_FIXED = (
    "model",
    "task",
    "run.seed",
    "data.name",
    "data.global_batch",
    "data.validation",
    "data.test",
    "data.collate",
    "data.shuffle",
    "data.drop_last",
    "data.sampling",
    "data.normalize",
    "data.augment",
    "data.resize",
    "data.orientation",
    "data.limit",
    "data.limit_train",
    "data.limit_test",
    "data.shape",
    "data.num_classes",
    "data.num_train",
    "data.num_test",
    "data.slope",
    "data.intercept",
    "data.noise",
    "data.sklearn",
    "data.target",
    "data.scale",
    "train.overfit_batches",
    "optim.name",
    "optim.rest.name",
)
# These select the directory and the start of a run, not the training.
_IGNORED = ("run.name", "run.dir", "run.resume", "run.init")


def load(config: Config, run: RunDir, world: World, is_fresh_start: bool = False) -> Files | None:
    """Return the files of the checkpoint to resume from, on every rank; None to start at step 0.

    Only rank 0 reads, so no disk has to be shared.

    Args:
        is_fresh_start: ignore an earlier run in the directory, and start at step 0.

    Raises:
        CheckpointError: `run.resume` leads to no checkpoint, all are damaged, or a setting can't be changed.
    """
    source: LoadedCheckpoint | None = None
    contents: dict[str, bytes] = {}
    is_own = True
    with world.agreement():
        source = _find_source(config, run) if world.is_main and not is_fresh_start else None
        if source:
            contents = source.contents
            is_own = source.path.parent.resolve() == run.checkpoints.resolve()
            check_settings(source.files, config, source.path)
    about = json.dumps(
        {"names": list(contents), "is_own": is_own, "source": str(source.path) if source else ""}
    ).encode()
    header = json.loads(world.broadcast_bytes(about if world.is_main else None))
    received = {name: world.broadcast_bytes(contents.get(name)) for name in header["names"]}
    if not received:
        return None
    files = source.files if source else serialization.decode_files(received)
    files["training.pt"]["source"] = header["source"]
    if not header["is_own"]:
        files["training.pt"].update(best_value=None, best_step=None, evaluations=[])  # those are the other run's
    return files


def _find_source(config: Config, run: RunDir) -> LoadedCheckpoint | None:
    """Load the checkpoint to resume from: the run's newest, else the one that `run.resume` gives."""
    own = _load_newest(run)
    given = None if config.run.resume in ("auto", "never") else Path(config.run.resume)
    if own is None:
        check_nothing_is_lost(run)
        return _load_given(given) if given else None
    step: int = own.files["training.pt"]["step"]
    run.saved_step = step
    warn_of_lost_checkpoint(run, step)
    newest = own.path
    if given and given.resolve().parent == run.checkpoints.resolve() and given.resolve() != newest.resolve():
        raise CheckpointError(
            f"run.resume is {given}, but this run resumes from its newest checkpoint, {newest.name}. To go back, start "
            f"another run from it: run.name={config.run.name}-2 run.resume={given}"
        )
    if given and given.resolve() != run.path.resolve():
        _log.info("run.resume=%s is not used: this run resumes from its own %s", given, newest.name)
    return own


def _load_newest(run: RunDir) -> LoadedCheckpoint | None:
    """Load the run's newest undamaged checkpoint; None if the run has no checkpoints.

    Damaged ones stay in place: the run is not claimed yet, and another process may be saving there.
    """
    found, faults = Store(run.checkpoints).newest(serialization.load)
    if faults and found is None:
        raise CheckpointError(
            f"run.dir {run.path}: has checkpoints, and none of them loads:\n"
            + "".join(f"  {error}\n" for error in faults.values())
            + "Restore undamaged ones, or start at step 0 with run.resume=never, which moves the old run aside."
        )
    for error in faults.values():
        _log.warning("%s. The checkpoint before it is used", error)
    if found is None and Store(run.checkpoints).has_quarantined():
        raise CheckpointError(
            f"run.dir {run.path}: has only checkpoints that were set aside as damaged, in checkpoints/quarantine. "
            "Restore an undamaged one, or start at step 0 with run.resume=never, which moves the old run aside."
        )
    return found


def _load_given(path: Path) -> LoadedCheckpoint:
    try:
        return serialization.load(find(path))
    except DamagedError as error:
        raise CheckpointError(f"{error}. Set run.resume to an undamaged checkpoint") from error


def check_settings(files: Files, config: Config, source: Path) -> None:
    """Check that no setting differs from those of a checkpoint that a resume can't change; raises CheckpointError."""
    changed = _compare_settings(files, config)
    if fixed := [key for key in changed if any(key == name or key.startswith(f"{name}.") for name in _FIXED)]:
        values = {key: changed[key] for key in fixed}
        lines = [f"  {key}: {before} in the checkpoint, {now} now" for key, (before, now) in values.items()]
        raise CheckpointError(
            f"{source}: was trained with other settings, which a resumed run can't change:\n" + "\n".join(lines) + "\n"
            "Set them back, give the run another name (run.name=...), or start it at step 0 "
            "(run.resume=never, which moves the old one aside)."
        )


class Changes(NamedTuple):
    """What has changed since the checkpoint that a run resumes from."""

    settings: list[str]
    """Changed settings, each with its two values."""
    code: list[str]
    """Names of files of the user's code that are new, gone or changed."""
    bits: list[str]
    """Other changes that may change bits of the result."""


def describe_changes(
    files: Files | None,
    config: Config,
    auto_settings: AutoSettings,
    world: World,
    code: Code = Code(),  # noqa: B008 (nothing changes it)
) -> Changes:
    """Compare a run with the checkpoint it resumes from; None for a start at step 0."""
    if files is None:
        return Changes([], [], [])
    changed = [f"{key}: {before} -> {now}" for key, (before, now) in _compare_settings(files, config).items()]
    before, now = files["training.pt"].get("code", {}), code.digests()
    files_changed = sorted(name for name in {**before, **now} if before.get(name) != now.get(name))
    return Changes(changed, files_changed, _changed_bits(files, config, auto_settings, world))


def _compare_settings(files: Files, config: Config) -> dict[str, tuple[str, str]]:
    before = translate_settings(flatten(files["training.pt"]["settings"]))
    now = flatten(config.model_dump())
    for key in now:  # a setting that the checkpoint lacks is newer than it, and had no effect
        if key not in before and _has_default(config, key):
            before[key] = now[key]
    for key, decided in (("train.precision", None), ("train.sync_batchnorm", "auto")):
        if now[key] == decided:  # it keeps what the run has decided
            before[key] = decided
    keys = [key for key in {**before, **now} if not _is_equal(before.get(key), now.get(key)) and key not in _IGNORED]
    return {escape(key): (_format_value(before, key), _format_value(now, key)) for key in keys}


def _has_default(config: Config, key: str) -> bool:
    """Whether a setting has its default, which does not depend on others."""
    *path, name = key.split(".")
    holder: Any = config
    for part in path:
        holder = getattr(holder, part, None)
    fields = getattr(type(holder), "model_fields", {})
    return name in fields and bool(fields[name].default == getattr(holder, name))


def _is_equal(before: Any, now: Any) -> bool:
    """Whether two values of a setting mean the same; the folder of a user's code may have moved."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return all(map(_is_equal, before, now))
    return is_same_code(before, now) if isinstance(before, str) and isinstance(now, str) else bool(before == now)


def _format_value(settings: dict[str, Any], key: str) -> str:
    """Format a value as YAML does."""
    return json.dumps(settings[key]).strip('"') if key in settings else "not set"


def set_aside_damaged(run: RunDir, step: int) -> None:
    """Quarantine the damaged checkpoints after `step`, which `load` skipped. The run has to be claimed.

    Raises:
        CheckpointError: another process saved in the run's directory between `load` and the claim.
    """
    own = Store(run.checkpoints)
    for later in reversed(own.list_steps()):
        if later == step:
            return
        try:
            serialization.load(own.path(later))
        except DamagedError as error:
            _quarantine(own, later, str(error))
        else:
            raise CheckpointError(
                f"run.dir {run.path}: the checkpoint of step {later} has come, or was repaired, since this start has "
                "looked; run the same command again"
            )


def _quarantine(own: Store, step: int, reason: str) -> None:
    try:
        _log.warning("%s is now %s", own.path(step), own.quarantine(step, reason))
    except OSError as error:
        _log.warning("%s: can't be moved to quarantine: %s", own.path(step), explain_unwritten(error))


def read_auto_settings(files: Files | None) -> dict[str, Any] | None:
    """Return the values that the checkpoint's run chose for settings that are `auto`; None without a checkpoint."""
    return dict(files["training.pt"]["choices"]) if files else None


def read_data_identity(files: Files | None) -> DataIdentity | None:
    """Return which data the checkpoint's run trains on; None without a checkpoint, or if an older version wrote it.

    Raises:
        CheckpointError: another program wrote it.
    """
    if files is None or files["training.pt"].get("data") is None:
        return None
    try:
        return DataIdentity.from_dict(files["training.pt"]["data"])
    except ValueError as error:
        raise CheckpointError(f"training.pt: data: {error}; another program wrote it") from error


def check_data(
    files: Files | None, stored: DataIdentity | None, found: DataIdentity, *, accept_changes: bool = False
) -> None:
    """Compare the data with those that the checkpoint's run has `stored`.

    Args:
        accept_changes: warn of differences only.

    Raises:
        CheckpointError: they differ.
    """
    if files is None:
        return
    if stored is None:
        _log.info("the checkpoint is of a version that did not store its data: they are not compared")
        return
    differences = compare(stored, found, "in the checkpoint", "now")
    if differences and accept_changes:
        _log.warning("the run continues on other data (data.accept_changes): %s", "; ".join(differences))
    elif differences:
        raise CheckpointError(
            "data: the run was trained on other data, which a resumed run can't change:\n"
            + "".join(f"  {difference}\n" for difference in differences)
            + "Put them back, continue on these (data.accept_changes=true), give the run another name (run.name=...), "
            "or start it at step 0 (run.resume=never, which moves the old one aside)."
        )


def describe_run(
    config: Config,
    auto_settings: AutoSettings,
    world: World,
    data: DataIdentity | None = None,
    code: Code = Code(),  # noqa: B008 (nothing changes it)
) -> dict[str, Any]:
    """Describe a run for its checkpoints: settings, data and code, values of `auto`, what bits depend on."""
    return {
        "settings": config.model_dump(),
        "data": data.to_dict() if data else None,
        "choices": auto_settings.to_dict(),
        "code": code.digests(),
        "machine": _describe_machine(config, auto_settings, world),
    }


def _changed_bits(files: Files, config: Config, auto_settings: AutoSettings, world: World) -> list[str]:
    """List what has changed since the checkpoint was written and may change bits of the result."""
    before, now = files["training.pt"]["machine"], _describe_machine(config, auto_settings, world)
    # A key that the checkpoint lacks is newer than the checkpoint; its value is taken as unchanged.
    changed = [f"{key} {before[key]} -> {value}" for key, value in now.items() if before.get(key, value) != value]
    if "sampler" not in before:
        changed.append(
            "the checkpoint is of an earlier version with another order of samples and other optimizer kernels, so the "
            "rest of this epoch may repeat or miss samples"
        )
    if "scaling" not in before and now["scaling"] is not None:
        changed.append(
            "the checkpoint is of an earlier version that scaled pictures before it cut them (data.resize), so their "
            "pixels differ a little; mean and std stay those of the run"
        )
    return changed


def _describe_machine(config: Config, auto_settings: AutoSettings, world: World) -> dict[str, Any]:
    return {
        "torch": str(torch.__version__),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        **describe_versions(world.device),
        # Where there are shards, the ranks that compute them may be any number.
        "world_size": world.size if config.shards is None else None,
        "shards": config.shards,
        "threads": auto_settings.threads,
        "channels_last": auto_settings.channels_last,
        "onednn": auto_settings.onednn,
        "compile": config.train.compile,
        "compile_mode": config.train.compile_mode,
        "sync_batchnorm": auto_settings.sync_batchnorm,
        "compression": "none" if auto_settings.shared_memory else config.distributed.compression,
        # With two ranks too: equal sums at other addresses, by which the norm and the update round.
        "shared_memory": auto_settings.shared_memory if config.shards is None else None,
        "sampler": "feistel",
        "scaling": SCALING if isinstance(config.data, ImageFolderData) and config.data.resize else None,
    }
