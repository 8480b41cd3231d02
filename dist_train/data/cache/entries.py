"""Decoded images and their statistics, verified before use.

    <name>-<split>-<key>/images.u8       uint8 [N, C, H, W], raw
                         labels.i64        int64 [N], raw
                         meta.json         shape, classes, count, checksums of both
                         checked.json      sizes, times and inodes of both when they were last verified
    <name>-<split>-<key>.statistics.json   mean and std of each channel

The key is a hash of all that the images depend on, with a digest of the files: changed files make another entry, and a
copy of the files elsewhere makes none. An entry is written under another name and then renamed, so readers need no
lock. Images are memory-mapped: the ranks of a machine share the pages. A file with the
size, times and inode of its last verification is not read again to verify it: a start takes as long with ten million
images as with ten. After a cache was copied, each file is verified once.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_train.data.cache.location import CacheError, report_write_errors
from dist_train.data.cache.lock import lock
from dist_train.data.samples import InMemoryImages
from dist_train.data.source import DecodedSplit, LazySplit, SplitSource
from dist_train.settings.schema import ImageData
from dist_train.system.escape import escape
from dist_train.system.read_file import read_object

FILES = ("images.u8", "labels.i64")
FORMAT = 3
"""Version of the entries; incremented when the program would write other content."""
TICK = 0.02
"""Seconds after which a file system gives a write another time."""

_log = logging.getLogger("dist_train.data")


@dataclass(frozen=True)
class CacheEntry:
    """The files of one split in the cache."""

    name: str
    """Name of the data set."""
    directory: Path

    @property
    def statistics(self) -> Path:
        """Path of the statistics."""
        return self.directory.with_name(f"{self.directory.name}.statistics.json")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the data set; raises as `lock` does."""
        with lock(self.directory.parent, self.name):
            yield


def locate_entry(config: ImageData, split: str, source: SplitSource, digest: str) -> CacheEntry:
    """Return the cache entry of a split, whether it exists or not; `digest` is that of its files."""
    identity = [FORMAT, config.name, split, config.resize, source.versions, digest]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return CacheEntry(config.name, Path(config.cache) / f"{config.name}-{split}-{key}")


def open_split(entry: CacheEntry, source: SplitSource, *, verify: bool) -> LazySplit:
    """Map a split from the cache; decode and store it first if it is not there.

    Args:
        verify: verify the images, and repair them if damaged; one rank of a machine has to.

    Raises:
        DataError: the files cannot be decoded.
        CacheError: the cache cannot be written.
    """
    contents = _load(entry.directory)
    if contents is None:
        with entry.lock():
            contents = _load(entry.directory) or _store(entry.directory, source.read)
    elif verify and not _is_verified(entry.directory):
        _verify(entry, source)
    return contents


def _verify(entry: CacheEntry, source: SplitSource) -> None:
    """Read and verify all images, repair them if damaged, and record the result."""
    directory = entry.directory
    time.sleep(TICK)
    identities = _read_identities(directory)  # before they are read: a change meanwhile is not recorded as verified
    if not _is_undamaged(directory):
        with entry.lock():
            _repair(directory, source.read)
    elif _is_undamaged(directory, "labels.i64"):
        with contextlib.suppress(CacheError), entry.lock():  # a cache that can't be written is read at each start
            write_json(directory / "checked.json", identities)


def load_statistics(entry: CacheEntry, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Load the statistics of a split; one process of the machine computes them first if they are missing.

    Raises:
        DataError: `compute` does.
        CacheError: the cache cannot be written.
    """
    found = read_json(entry.statistics)
    if found is None:
        with entry.lock():
            found = read_json(entry.statistics) or write_json(entry.statistics, compute())
    return found


def _load(directory: Path) -> LazySplit | None:
    """Map the entry; None if it is missing or incomplete, or its labels are damaged."""
    meta = read_json(directory / "meta.json")
    if meta is None:
        return None
    images, labels = directory / "images.u8", directory / "labels.i64"
    if not _has_size(images, meta["count"] * _count_pixels(meta)):
        _warn_damaged(images)
        return None
    if not _has_size(labels, meta["count"] * 8) or not (
        _is_verified(directory) or _is_undamaged(directory, labels.name)
    ):
        _warn_damaged(labels)
        return None
    return _map(directory, meta)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _map(directory: Path, meta: dict[str, Any]) -> LazySplit:
    count, shape = meta["count"], meta["shape"]
    images = _map_bytes(directory / "images.u8", count * _count_pixels(meta)).view(count, *shape)
    labels = _map_file(directory / "labels.i64", count, torch.int64)
    return LazySplit(InMemoryImages(images), labels, tuple(meta["classes"]))


def _count_pixels(meta: dict[str, Any]) -> int:
    channels, height, width = meta["shape"]
    return int(channels * height * width)


def _map_bytes(path: Path, size: int, *, shared: bool = False) -> Tensor:
    """Map a file as uint8 [size]; writes reach the file only if `shared`."""
    return _map_file(path, size, torch.uint8, shared=shared)


def _map_file(path: Path, size: int, dtype: torch.dtype, *, shared: bool = False) -> Tensor:
    descriptor = os.open(path, (os.O_RDWR if shared else os.O_RDONLY) | os.O_CLOEXEC)
    try:  # torch takes no path that is not UTF-8
        return torch.from_file(f"/proc/self/fd/{descriptor}", shared=shared, size=size, dtype=dtype)
    finally:
        os.close(descriptor)


def _store(directory: Path, read: Callable[[], DecodedSplit]) -> LazySplit:
    """Decode the split, write its entry under another name and rename it. Needs the lock.

    An incomplete entry is removed: it would fill a disk that is nearly full.
    """
    _log.info("decoding %s", directory.name)
    decoded = read()
    aside, old = directory.with_name(f".{directory.name}.new"), directory.with_name(f".{directory.name}.old")
    with report_write_errors(directory.parent):
        try:
            meta = _write(aside, decoded)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        if directory.exists():
            directory.rename(old)
        aside.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    return _map(directory, meta)


def _write(directory: Path, decoded: DecodedSplit) -> dict[str, Any]:
    """Write an entry into a new directory; return its meta.json."""
    directory.mkdir()
    for name, tensor in zip(FILES, (decoded.images, decoded.labels), strict=True):
        (directory / name).write_bytes(tensor.contiguous().numpy().data)  # numpy's `tofile` doesn't say why it fails
    meta = _write_meta(directory, decoded)
    _record_identities(directory)
    return meta


def _repair(directory: Path, read: Callable[[], DecodedSplit]) -> None:
    """Decode the split again and overwrite its damaged images in place. Needs the lock.

    In place, because other ranks have mapped the file already: they see the repaired images, and read none before all
    ranks, this one included, have opened the data set.
    """
    if _is_undamaged(directory):
        return
    _warn_damaged(directory / "images.u8")
    decoded = read()
    with report_write_errors(directory.parent):
        _map_bytes(directory / "images.u8", decoded.images.numel(), shared=True).copy_(decoded.images.flatten())
        _write_meta(directory, decoded)
        _record_identities(directory)


@functools.cache
def _warn_damaged(path: Path) -> None:
    """Warn once per process: a damaged file is read again under the lock."""
    _log.warning("%s is damaged and will be written again", escape(path))


def _is_undamaged(directory: Path, name: str = "images.u8") -> bool:
    meta = read_json(directory / "meta.json")
    return meta is not None and _hash_file(directory / name) == meta["sha256"][name]


def _record_identities(directory: Path) -> None:
    """Record the identities of files that were just written."""
    for name in FILES:
        with (directory / name).open("rb") as file:
            os.fsync(file.fileno())  # after a power cut they could have their sizes and times, but other bytes
    time.sleep(TICK)
    write_json(directory / "checked.json", _read_identities(directory))


def _is_verified(directory: Path) -> bool:
    """Whether the files are unchanged since they were last verified; reads none of them."""
    return read_json(directory / "checked.json") == _read_identities(directory)


def _read_identities(directory: Path) -> dict[str, Any]:
    """Size, times and inode of both files, which change when they are written or copied."""
    found = {name: (directory / name).stat() for name in FILES}
    return {
        name: [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino] for name, status in found.items()
    }


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_meta(directory: Path, decoded: DecodedSplit) -> dict[str, Any]:
    meta = {
        "shape": decoded.images.shape[1:],
        "classes": decoded.classes,
        "count": len(decoded.images),
        "sha256": {name: _hash_file(directory / name) for name in FILES},
    }
    return write_json(directory / "meta.json", meta)


def write_json(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write `content` with its checksum under another name, and rename; return it."""
    aside = path.with_name(f".{path.name}.new")
    with report_write_errors(path.parent):
        aside.write_text(json.dumps({"content": content, "sha256": _hash_json(content)}))
        aside.replace(path)
    return content


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what `write_json` wrote; None if it is missing or damaged."""
    try:
        found = read_object(path)
        content: dict[str, Any] = found["content"]
        if found["sha256"] == _hash_json(content):
            return content
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    _warn_damaged(path)
    return None


def _hash_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
