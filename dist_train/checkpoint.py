"""Checkpoints on disk: written aside and renamed, read by rank 0 only, never unpickled beyond tensors and plain types.

checkpoints/step_00001200/model.pt       state_dict of the network, plain names
                          average.pt     the same of the moving average, where there is one
                          training.pt    epoch, step, optimizer_state_dict, loss, and the rest
                          manifest.json  {"step", "weights_sha256", "files": {name: {"sha256", "bytes"}}}
checkpoints/latest -> step_00001200      checkpoints/best -> step_00000900
"""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dist_train.errors import CheckpointError

# What `training.pt` has to hold for a training to go on, and for `resume` to compare.
NEEDED = {
    *("epoch", "step", "optimizer_state_dict", "scaler_state_dict", "loss", "window", "best_accuracy", "best_step"),
    *("evaluated_step", "settings", "choices", "machine"),
}

_NAME = re.compile(r"step_(\d{8,})")


def weights_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """One hash of all names, types, shapes and bits of a state_dict, in whatever memory format they are."""
    digest = hashlib.sha256()
    for name, tensor in state_dict.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(directory: Path, step: int, files: Mapping[str, Mapping[str, Any]], link: str | None = None) -> Path:
    """Write the checkpoint of `step` and point `latest` (and `link`) at it; one that is there already is kept.

    Args:
        directory: the run's `checkpoints/`.
        files: content of each file by its name; `model.pt` among them. Tensors and plain types only.
    """
    place = directory / f"step_{step:08d}"
    if not (place / "manifest.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / f".{place.name}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        _write(aside, step, files)
        aside.rename(place)
        _sync(directory)
    for name in ("latest", *([link] if link else [])):
        _point(directory / name, place.name)
    return place


def steps(directory: Path) -> list[int]:
    """The steps of all finished checkpoints, rising."""
    if not directory.is_dir():
        return []
    names = (_NAME.fullmatch(entry.name) for entry in directory.iterdir() if (entry / "manifest.json").exists())
    return sorted(int(name[1]) for name in names if name and not (directory / name[0]).is_symlink())


def prune(directory: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last`, what the links lead to, and what a killed save has left behind."""
    for entry in list(directory.iterdir()):
        if entry.name.startswith(".") and entry.is_symlink():
            entry.unlink()
    kept = {f"step_{step:08d}" for step in steps(directory)[-keep_last:]}
    kept |= {str(entry.readlink()) for entry in directory.iterdir() if entry.is_symlink()}
    for entry in list(directory.iterdir()):
        if _NAME.fullmatch(entry.name) and entry.name not in kept and not entry.is_symlink():
            # A kill in the middle of the removal must not leave what looks like a checkpoint.
            entry.rename(directory / f".{entry.name}.old")
    for entry in directory.glob(".step_*"):
        shutil.rmtree(entry, ignore_errors=True)


def find(path: Path) -> Path:
    """The checkpoint that a user means: its directory, or the newest of a run or of a `checkpoints/`.

    Raises:
        CheckpointError: there is none.
    """
    for directory in (path, path / "checkpoints"):
        if (directory / "manifest.json").exists():
            return directory
        if newest := steps(directory):
            return directory / f"step_{newest[-1]:08d}"
    raise CheckpointError(f"{path}: no checkpoint there; give a run's directory or one of its checkpoints/step_*")


def read(checkpoint: Path) -> dict[str, bytes]:
    """The files of a checkpoint, each checked against the manifest.

    Raises:
        CheckpointError: a file is missing or is not what was written.
    """
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        hashes = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        contents = {name: (checkpoint / name).read_bytes() for name in hashes}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint}: does not load: {error}. {_MEND}") from error
    if missing := {"model.pt", "training.pt"} - set(contents):
        raise CheckpointError(f"{checkpoint}: does not load: it has no {' and no '.join(sorted(missing))}. {_MEND}")
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != hashes[name]:
            raise CheckpointError(f"{checkpoint / name}: is damaged, its SHA-256 is not that of the manifest. {_MEND}")
    return contents


def decode(content: bytes, name: str) -> dict[str, Any]:
    """The content of one file, tensors on the CPU; nothing but tensors and plain types is ever built.

    Raises:
        CheckpointError: it holds something else, or is no file of torch.
    """
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, struct.error) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise CheckpointError(f"{name}: does not load: {reason}. {_MEND}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{name}: does not load: it holds a {type(loaded).__name__}. {_MEND}")
    return loaded


def decode_training(content: bytes) -> dict[str, Any]:
    """The content of `training.pt`; raises CheckpointError as `decode` does, and where something is missing."""
    loaded = decode(content, "training.pt")
    if missing := NEEDED - set(loaded):
        raise CheckpointError(f"training.pt: lacks {', '.join(sorted(missing))}; another program wrote it. {_MEND}")
    return loaded


def load_weights(network: nn.Module, state_dict: dict[str, Any], name: str) -> None:
    """Put the state_dict of the file `name` into a network; raises CheckpointError where it is of another one."""
    try:
        network.load_state_dict(state_dict)
    except RuntimeError as error:
        differences = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise CheckpointError(f"{name}: is of another network: {differences}") from error


def mend_links(directory: Path, best_step: int | None) -> None:
    """Let `latest` and `best` lead where a kill after a save kept them from leading; a newer best stays."""
    there = steps(directory)
    for name, step in (("latest", there[-1] if there else None), ("best", best_step)):
        if step in there and _led_to(directory / name) < step:
            _point(directory / name, f"step_{step:08d}")


def _led_to(link: Path) -> int:
    """The step of the checkpoint that a link leads to, -1 where it leads to none."""
    name = _NAME.fullmatch(str(link.readlink())) if link.is_symlink() and link.exists() else None
    return int(name[1]) if name else -1


_MEND = "Move it away to go on from the one before, or start anew with run.resume=never."


def _write(aside: Path, step: int, files: Mapping[str, Mapping[str, Any]]) -> None:
    aside.mkdir()
    manifest: dict[str, Any] = {"step": step, "weights_sha256": weights_sha256(files["model.pt"]), "files": {}}
    for name, content in files.items():
        buffer = io.BytesIO()
        torch.save(content, buffer)
        _write_synced(aside / name, buffer.getbuffer())
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        manifest["files"][name] = {"sha256": digest, "bytes": buffer.getbuffer().nbytes}
    # The manifest comes last: a directory that has one is whole.
    _write_synced(aside / "manifest.json", json.dumps(manifest, indent=2).encode())
    _sync(aside)


def _write_synced(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(link: Path, target: str) -> None:
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)
