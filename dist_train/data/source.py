"""Splits as the modules of data sets return them: found, lazily readable, or decoded."""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dist_train.data.memory import check_memory
from dist_train.data.samples import PIECE, Images, SplitName
from dist_train.errors import DataError
from dist_train.system.cpu import count_cores
from dist_train.system.escape import escape

SCALING = 2
"""Version of `resize`; incremented when the same images would give other pixels."""


@dataclass(frozen=True)
class LazySplit:
    """A split whose images are read when they are taken."""

    images: Images
    labels: Tensor
    """int64 [N]."""
    classes: tuple[str, ...]


@dataclass(frozen=True)
class DecodedSplit:
    """A split with all images in memory."""

    images: Tensor
    """uint8 [N, C, H, W]."""
    labels: Tensor
    """int64 [N]."""
    classes: tuple[str, ...]


@dataclass(frozen=True)
class RowSplits:
    """The rows of all splits, not yet scaled."""

    columns: tuple[str, ...]
    """Names of the inputs."""
    target: str
    """Name of what is predicted."""
    splits: dict[SplitName, Tensor]
    """float64 [N, columns + 1]: the inputs, then the target."""


@dataclass(frozen=True)
class FileList:
    """The files of a split, in the order of its samples."""

    root: str
    """The folder to which names are relative."""
    paths: tuple[str, ...] = ()
    stamp: str = ""
    """SHA-256 of paths, sizes and times, which change when a file changes."""

    def compute_digest(self) -> str:
        """Read all files; return the SHA-256 of their names below `root` and their contents. Raises OSError."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor(count_cores()) as pool:
            for start in range(0, len(self.paths), PIECE):
                paths = self.paths[start : start + PIECE]
                for path, content in zip(paths, pool.map(_hash_file, paths), strict=True):
                    digest.update(os.fsencode(os.path.relpath(path, self.root)) + b"\0" + content)
        return digest.hexdigest()


NO_FILES = FileList("")


def list_files(paths: Iterable[Path], root: Path) -> FileList:
    """List files with their sizes and times; raises OSError."""
    return stamp_files([(str(path), path.stat()) for path in paths], root)


def stamp_files(found: Iterable[tuple[str, os.stat_result]], root: Path) -> FileList:
    """List files whose sizes and times are known."""
    files, stamp = tuple(found), hashlib.sha256(os.fsencode(root.absolute()))
    for path, status in files:
        stamp.update(os.fsencode(path) + f"\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
    return FileList(str(root), tuple(path for path, _ in files), stamp.hexdigest())


def _hash_file(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - a Path for each of a million files takes seconds
        return hashlib.file_digest(file, "sha256").digest()


@dataclass(frozen=True)
class SplitSource:
    """A split whose files were found and not yet read."""

    files: FileList
    """What the images and labels are read from; `NO_FILES` if they are generated."""
    read: Callable[[], DecodedSplit]
    """Decodes the whole split; raises DataError."""
    versions: tuple[object, ...] = ()
    """What else the decoded images depend on besides the settings; serializable as JSON."""
    lazy: LazySplit | None = None
    """The split with images decoded on demand; None if one file holds many images."""


def check_labels(labels: Tensor, classes: tuple[str, ...], path: Path) -> None:
    """Raise DataError if there are no samples, or a label is not the number of a class; `path` is of the labels."""
    where = escape(path)
    if len(labels) == 0:
        raise DataError(f"{where}: holds no samples")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise DataError(
            f"{where}: holds labels from {low} to {high}, but there are {len(classes)} classes, 0 to "
            f"{len(classes) - 1}; the file is damaged or of another data set"
        )


def resize(images: Tensor, side: int | None) -> Tensor:
    """Cut the middle square and scale it to `side` pixels; None changes nothing.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        uint8 [N, C, side, side], bilinear with antialiasing. An image's result does not depend on the others.
    """
    height, width = images.shape[-2:]
    if side is None or (height, width) == (side, side):
        return images
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    squares = images[:, :, top : top + shorter, left : left + shorter]
    shape = f"{images.shape[1]}x{side}x{side}"
    needed = images.shape[1] * side**2 * (8 * min(len(images), PIECE) + 2 * len(images))
    check_memory(needed, f"data.resize={side}: {len(images):,} images of {shape}")
    parts = []
    for piece in torch.split(squares, PIECE):
        scaled = functional.interpolate(piece.to(torch.float32), (side, side), mode="bilinear", antialias=True)
        parts.append(scaled.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts)
