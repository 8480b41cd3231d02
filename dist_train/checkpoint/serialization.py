"""What a checkpoint holds: tensors and plain types, encoded for the store, and never unpickled beyond those."""

import hashlib
import io
import logging
import pickle
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from dist_train.checkpoint import store
from dist_train.checkpoint.store import Store
from dist_train.errors import CheckpointError, DamagedError
from dist_train.models import rename_old_parameters
from dist_train.system.openmp import use_one_thread

Files = dict[str, dict[str, Any]]

# What `training.pt` has to hold for a training to go on, and for `resume` to compare.
NEEDED = {
    *("epoch", "step", "optimizer_state_dict", "scaler_state_dict", "loss", "window", "best_accuracy", "best_step"),
    *("evaluated_step", "settings", "choices", "machine"),
}

_log = logging.getLogger(__name__)


def weights_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """One hash of all names, types, shapes and bits of a state_dict, in whatever memory format they are."""
    digest = hashlib.sha256()
    for name, tensor in state_dict.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def encode(content: Mapping[str, Any]) -> bytes:
    """The bytes of one file, as `torch.save` writes them, the same in whatever memory format the tensors are."""
    buffer = io.BytesIO()
    torch.save(on_tensors(Tensor.contiguous, content), buffer)
    return buffer.getvalue()  # shares the memory of the buffer


def on_tensors(change: Callable[[Tensor], Tensor], content: Any) -> Any:
    """Dictionaries and lists as they are, with each tensor in them, however deep, changed."""
    if isinstance(content, Tensor):
        return change(content)
    if isinstance(content, dict):
        return {key: on_tensors(change, value) for key, value in content.items()}
    if isinstance(content, list):
        return [on_tensors(change, value) for value in content]
    return content


def decode(content: bytes, name: str) -> dict[str, Any]:
    """The content of one file, tensors on the CPU; nothing but tensors and plain types is ever built.

    Raises:
        DamagedError: it holds something else, or is no file of torch.
    """
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, struct.error) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise DamagedError(f"{name}: does not load: {reason}") from error
    if not isinstance(loaded, dict):
        raise DamagedError(f"{name}: does not load: it holds a {type(loaded).__name__}")
    return loaded


def decode_training(content: bytes) -> dict[str, Any]:
    """The content of `training.pt`.

    Raises:
        DamagedError: as `decode`.
        CheckpointError: it lacks something that a training needs to go on.
    """
    loaded = decode(content, "training.pt")
    if missing := NEEDED - set(loaded):
        raise CheckpointError(
            f"training.pt: lacks {', '.join(sorted(missing))}; another program wrote it. Start from another "
            "checkpoint, or anew with run.resume=never"
        )
    return loaded


def decode_files(contents: Mapping[str, bytes]) -> Files:
    """The content of all files of a checkpoint; raises what `decode_training` does."""
    weights = {name: decode(content, name) for name, content in contents.items() if name != "training.pt"}
    return {**weights, "training.pt": decode_training(contents["training.pt"])}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole: the bytes that lie at `place`, and what they mean."""

    place: Path
    contents: dict[str, bytes]
    files: Files


def load(place: Path) -> Checkpoint:
    """Read a checkpoint, verify it and decode it.

    Raises:
        DamagedError: it is not what was written, or holds more than tensors and plain types.
        CheckpointError: another program wrote it.
    """
    stored = store.read(place)
    try:
        files = decode_files(stored.files)
        weights = weights_sha256(files["model.pt"])
    except CheckpointError as error:
        raise type(error)(f"{place}: {error}") from error
    except (AttributeError, RuntimeError, TypeError) as error:
        raise DamagedError(f"{place}: model.pt: holds more than tensors") from error
    if weights != stored.weights_sha256:
        raise DamagedError(f"{place}: model.pt: its weights are not those whose SHA-256 the manifest has")
    if files["training.pt"]["step"] != stored.step:
        raise DamagedError(f"{place}: training.pt: is of step {files['training.pt']['step']}, not {stored.step}")
    return Checkpoint(place, stored.files, files)


def load_weights(network: nn.Module, state_dict: dict[str, Any], name: str) -> None:
    """Put the state_dict of the file `name` into a network.

    Raises:
        CheckpointError: it is of another network, or has values that are not finite; the network is as it was.
    """
    state_dict = rename_old_parameters(network, state_dict)
    if differences := _differences(network.state_dict(), state_dict):
        raise CheckpointError(f"{name}: is of another network: {_shortened(differences)}")
    if broken := not_finite(state_dict):
        raise CheckpointError(
            f"{name}: has values that are not finite: {_shortened(broken)}. Start from an earlier checkpoint "
            "(run.resume=... under another run.name), or anew with run.resume=never"
        )
    network.load_state_dict(state_dict)


def not_finite(state_dict: Mapping[str, Tensor]) -> list[str]:
    """The tensors that hold infinities or NaN, and how many."""
    counts = {name: int((~torch.isfinite(tensor)).sum()) for name, tensor in state_dict.items()}
    return [f"{name} ({count} of {state_dict[name].numel()})" for name, count in counts.items() if count]


def _differences(own: Mapping[str, Tensor], found: Mapping[str, Any]) -> list[str]:
    """What keeps the tensors `found` from being those of a network that has `own`."""
    missing = [f"{name} is missing" for name in own if name not in found]
    unexpected = [f"{name} is not in the model" for name in found if name not in own]
    both = [(name, own[name], found[name]) for name in own if name in found]
    kinds = [f"{name} is a {type(value).__name__}" for name, _, value in both if not isinstance(value, Tensor)]
    shapes = [
        f"{name} is {list(value.shape)}, in the model {list(tensor.shape)}"
        for name, tensor, value in both
        if isinstance(value, Tensor) and value.shape != tensor.shape
    ]
    return [*missing, *unexpected, *kinds, *shapes]


def _shortened(differences: list[str], most: int = 20) -> str:
    more = [f"and {len(differences) - most} more"] if len(differences) > most else []
    return "; ".join(differences[:most] + more)


class Saver:
    """Writes a run's checkpoints, by default in a thread while the training goes on; a context manager.

    A save that the disk does not take is warned of and the run goes on; what was saved before stays. Any other error
    of a save is raised by the next call. Only rank 0 saves.
    """

    def __init__(
        self, target: Store, *, keep_last: int, asynchronous: bool, check: Callable[[], None] = lambda: None
    ) -> None:
        """
        Args:
            keep_last: how many of the newest checkpoints stay.
            check: called right before a checkpoint gets its name; it raises where another process has the run now.
        """
        self.last_failed: str | None = None
        """Why the last finished save failed; None where it did not."""
        self._store, self._keep_last, self._check = target, keep_last, check
        self._thread = ThreadPoolExecutor(1, "checkpoint", use_one_thread) if asynchronous else None
        self._running: Future[None] | None = None

    def mend_links(self, best_step: int | None) -> None:
        """Let `latest` and `best` lead where a kill after a save kept them from leading."""
        try:
            self._store.mend_links(best_step)
        except OSError as error:
            _log.warning("%s: links can't be mended: %s", self._store.directory, error.strerror or error)

    def save(self, step: int, files: Mapping[str, Mapping[str, Any]], link: str | None = None) -> None:
        """Save the checkpoint of `step` and let `latest` (and `link`) lead to it.

        Args:
            files: content of each file by its name: plain types, and tensors on the CPU that nobody changes any more.
        """
        self.wait()
        if self._thread:
            self._running = self._thread.submit(self._save, step, files, link)
        else:
            self._save(step, files, link)

    def wait(self) -> None:
        """Wait for a save that is still being written."""
        running, self._running = self._running, None
        if running:
            running.result()

    def finish(self) -> str | None:
        """Wait for the last save; returns why it failed, None where it did not."""
        self.wait()
        return self.last_failed

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            if self._thread:
                self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as later:
            if error is None:
                raise
            _log.warning("the last save failed too: %s", later)  # what ends the run is the error before

    def _save(self, step: int, files: Mapping[str, Mapping[str, Any]], link: str | None) -> None:
        self.last_failed = self._fault(step, files, link)
        if self.last_failed:
            _log.warning("%s. The run goes on, and the checkpoints before it stay", self.last_failed)
            return
        try:
            self._store.prune(self._keep_last)
        except OSError as error:
            _log.warning("%s: old checkpoints can't be removed: %s", self._store.directory, error.strerror or error)

    def _fault(self, step: int, files: Mapping[str, Mapping[str, Any]], link: str | None) -> str | None:
        """Write a checkpoint; why it was not written, None where it was."""
        place = self._store.place(step)
        for name in set(files) - {"training.pt"}:
            if broken := not_finite(files[name]):
                return f"{place}: was not saved: {name} has values that are not finite: {_shortened(broken)}"
        encoded = {name: encode(content) for name, content in files.items()}
        try:
            self._store.save(step, encoded, weights_sha256(files["model.pt"]), link, self._check)
        except OSError as error:
            return f"{place}: was not saved: {error.strerror or error}"
        return None
