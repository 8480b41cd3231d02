"""Read a checkpoint and verify every byte by its manifest; distinguish damage from a disk that can't be read now."""

import errno
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dist_train.errors import DamagedError, UnreadableError
from dist_train.system.escape import escape
from dist_train.system.read_file import parse_object, read_bytes

NAME = re.compile(r"step_(\d{8,})")
"""The name of a checkpoint's directory."""
PAUSES = (0.1, 0.3, 1.0)  # seconds before a read is tried again

# What is gone, or is no file: the bytes are not there. Any other error says only that they can't be read now.
_GONE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EINVAL, errno.ENXIO, errno.EFBIG),  # `read_bytes`, of what is no regular file or too large
}
_T = TypeVar("_T")


@dataclass(frozen=True)
class StoredCheckpoint:
    """The content of a checkpoint, verified by its manifest."""

    step: int
    weights_sha256: str
    files: dict[str, bytes]


def read(checkpoint: Path) -> StoredCheckpoint:
    """Read a checkpoint; verify each file by the manifest, and the manifest by the directory's name.

    Raises:
        DamagedError: a file is missing or differs from what was written.
        UnreadableError: a file can't be read now.
    """
    try:
        step, weights_sha256, about = _read_manifest(checkpoint)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise DamagedError(f"{escape(checkpoint)}: does not load: {escape(error)}") from error
    if missing := {"model.pt", "training.pt"} - set(about):
        raise DamagedError(f"{escape(checkpoint)}: does not load: it has no {' and no '.join(sorted(missing))}")
    files = {name: _read_verified(checkpoint, name, sha256, size) for name, (sha256, size) in about.items()}
    named = NAME.fullmatch(checkpoint.resolve().name)
    if named and int(named[1]) != step:
        raise DamagedError(f"{escape(checkpoint)}: does not load: its manifest is of step {step}")
    return StoredCheckpoint(step, weights_sha256, files)


def find_fault(checkpoint: Path) -> str | None:
    """Describe the damage of a checkpoint; None if there is none. Raises UnreadableError."""
    try:
        read(checkpoint)
    except DamagedError as error:
        return str(error)
    return None


def try_again(read_once: Callable[[], _T]) -> _T:
    """Return what `read_once` returns; while it fails by an error of the disk, repeat it a few times."""
    for pause in PAUSES:
        try:
            return read_once()
        except OSError as error:
            if error.errno in _GONE:
                raise
        time.sleep(pause)
    return read_once()


def explain_unreadable(path: Path, error: OSError) -> UnreadableError:
    """Make the error for a file or directory that is there and can't be read."""
    return UnreadableError(
        f"{escape(path)}: can't be read: {error.strerror or error}. Nothing was changed; give the same command again "
        "when it can be read"
    )


def _read_manifest(checkpoint: Path) -> tuple[int, str, dict[str, tuple[str, int]]]:
    """Step, hash of the weights, and (SHA-256, bytes) of each file; raises ValueError and others if it is none."""
    manifest = parse_object(_read(checkpoint / "manifest.json", read_bytes))
    files = {str(name): (str(file["sha256"]), int(file["bytes"])) for name, file in manifest["files"].items()}
    if outside := [name for name in files if Path(name).name != name or "\0" in name]:
        raise ValueError(f"its manifest names files outside of it: {escape(', '.join(outside))}")
    return int(manifest["step"]), str(manifest["weights_sha256"]), files


def _read_verified(checkpoint: Path, name: str, sha256: str, size: int) -> bytes:
    path = checkpoint / name
    found = _read(path, lambda path: path.stat().st_size)
    if found != size:
        raise DamagedError(f"{escape(path)}: is damaged, it has {found} bytes and {size} were written")
    content = _read(path, lambda path: read_bytes(path, size))
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError(f"{escape(path)}: is damaged, its SHA-256 is not that of the manifest")
    return content


def _read(path: Path, read_once: Callable[[Path], _T]) -> _T:
    try:
        return try_again(lambda: read_once(path))
    except OSError as error:
        if error.errno in _GONE:
            raise DamagedError(f"{escape(path.parent)}: does not load: {escape(error)}") from error
        raise explain_unreadable(path, error) from error
