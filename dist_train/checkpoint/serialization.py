"""Encoding and decoding the files of a checkpoint: tensors and plain types, and no other pickled objects."""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dist_train.checkpoint.reader import read
from dist_train.checkpoint.schema import check_training, is_dense
from dist_train.errors import CheckpointError, DamagedError
from dist_train.models import give_shapes, rename_old_parameters
from dist_train.system.escape import escape

Files = dict[str, dict[str, Any]]


def weights_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """Hash all names, dtypes, shapes and bits of a state_dict; the memory format does not count."""
    digest = hashlib.sha256()
    for name, tensor in state_dict.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def encode(content: Mapping[str, Any]) -> bytes:
    """Encode one file as `torch.save` does; the memory format of the tensors does not count."""
    buffer = io.BytesIO()
    torch.save(convert_tensors(Tensor.contiguous, content), buffer)
    return buffer.getvalue()  # shares the memory of the buffer


def convert_tensors(change: Callable[[Tensor], Tensor], content: Any) -> Any:
    """Return nested dictionaries, lists and tuples with `change` applied to each tensor.

    Unlike `nest.map_tensors` it makes plain types of their subclasses, which a file of a checkpoint must not hold.
    """
    if isinstance(content, Tensor):
        return change(content)
    if isinstance(content, dict):
        return {key: convert_tensors(change, value) for key, value in content.items()}
    if isinstance(content, list):
        return [convert_tensors(change, value) for value in content]
    if isinstance(content, tuple):
        return tuple(convert_tensors(change, value) for value in content)
    return content


def decode(content: bytes, name: str) -> dict[str, Any]:
    """Decode one file to tensors on the CPU and plain types; nothing else is unpickled.

    Raises:
        DamagedError: it holds something else, or is not a file of torch.
    """
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever the bytes lead it to
        reason = (str(error) or repr(error)).splitlines()[0]
        raise DamagedError(f"{name}: does not load: {escape(reason)}") from error
    if not isinstance(loaded, dict):
        raise DamagedError(f"{name}: does not load: it holds a {type(loaded).__name__}")
    return loaded


def decode_files(contents: Mapping[str, bytes]) -> Files:
    """Decode all files of a checkpoint.

    Raises:
        DamagedError: as `decode`, or a file of weights holds more than tensors by their names.
        CheckpointError: as `check_training`.
    """
    files = {name: decode(content, name) for name, content in contents.items()}
    for name in set(files) - {"training.pt"}:
        if not all(isinstance(key, str) and is_dense(value) for key, value in files[name].items()):
            raise DamagedError(f"{name}: holds more than tensors")
    check_training(files["training.pt"])
    return files


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A verified checkpoint."""

    path: Path
    contents: dict[str, bytes]
    """The bytes of each file, by its name."""
    files: Files
    """The decoded files, by their names."""


def load(path: Path) -> LoadedCheckpoint:
    """Read a checkpoint, verify it and decode it.

    Raises:
        DamagedError: it is not what was written, or holds more than tensors and plain types.
        CheckpointError: another program wrote it.
    """
    stored = read(path)
    try:
        files = decode_files(stored.files)
        weights = weights_sha256(files["model.pt"])
    except CheckpointError as error:
        raise type(error)(f"{escape(path)}: {error}") from error
    if weights != stored.weights_sha256:
        raise DamagedError(f"{escape(path)}: model.pt: its weights are not those whose SHA-256 the manifest has")
    if files["training.pt"]["step"] != stored.step:
        raise DamagedError(f"{escape(path)}: training.pt: is of step {files['training.pt']['step']}, not {stored.step}")
    files["training.pt"]["source"] = str(path)
    return LoadedCheckpoint(path, stored.files, files)


def load_weights(network: nn.Module, state_dict: dict[str, Any], name: str) -> None:
    """Load the state_dict of the file `name` into a network.

    Raises:
        CheckpointError: it is of another network, or has values that are not finite; the network stays unchanged.
    """
    state_dict = rename_old_parameters(network, state_dict)
    give_shapes(network, state_dict)
    if differences := list_differences(network.state_dict(), state_dict):
        raise CheckpointError(f"{escape(name)}: is of another network: {shorten(differences)}")
    if broken := list_not_finite(state_dict):
        raise CheckpointError(
            f"{escape(name)}: has values that are not finite: {shorten(broken)}. Start from an earlier checkpoint "
            "(run.resume=... under another run.name), or at step 0 with run.resume=never"
        )
    network.load_state_dict(state_dict)


def list_not_finite(state_dict: Mapping[str, Tensor]) -> list[str]:
    """List the tensors with infinite or NaN values, and how many each has."""
    counts = {name: int((~torch.isfinite(tensor)).sum()) for name, tensor in state_dict.items()}
    return [f"{name} ({count} of {state_dict[name].numel()})" for name, count in counts.items() if count]


def list_differences(own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, converts: bool = False) -> list[str]:
    """List how the tensors `found` differ from those of a network, `own`, in name, shape and dtype.

    Args:
        converts: floats of another precision do not count.
    """
    missing = [f"{name} is missing" for name in own if name not in found]
    unexpected = [f"{name} is not in the model" for name in found if name not in own]
    forms = [
        f"{name} is {_describe_form(found[name])}, in the model {_describe_form(tensor)}"
        for name, tensor in own.items()
        if name in found and not _has_form(tensor, found[name], converts)
    ]
    return [escape(text, 300) for text in (*missing, *unexpected, *forms)]


def _has_form(tensor: Tensor, value: Tensor, converts: bool) -> bool:
    is_same = tensor.dtype == value.dtype
    is_like = converts and tensor.is_floating_point() and value.is_floating_point()
    return tensor.shape == value.shape and (is_same or is_like)


def _describe_form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def shorten(differences: list[str], most: int = 20) -> str:
    """Join up to `most` of the differences, and count the others."""
    more = [f"and {len(differences) - most} more"] if len(differences) > most else []
    return "; ".join(differences[:most] + more)
