"""Splits as the modules of data sets return them: found, lazily readable, or decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dist_train.data.memory import check_memory
from dist_train.data.samples import PIECE, Images
from dist_train.errors import DataError


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
class SplitSource:
    """A split whose files were found and not yet read."""

    identity: tuple[object, ...]
    """What the decoded images depend on besides the settings; serializable as JSON."""
    read: Callable[[], DecodedSplit]
    """Decodes the whole split; raises DataError."""
    lazy: LazySplit | None = None
    """The split with images decoded on demand; None if one file holds many images."""


def stamp(paths: list[Path], root: Path) -> tuple[object, ...]:
    """List the names below `root`, sizes and times of files, to notice changes without reading the files."""
    found = [(path, path.stat()) for path in paths]
    return tuple([path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns] for path, status in found)


def check_labels(labels: Tensor, classes: tuple[str, ...], where: str) -> None:
    """Raise DataError if there are no samples, or a label is not the number of a class; `where` names the files."""
    if len(labels) == 0:
        raise DataError(f"{where}: holds no samples")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise DataError(
            f"{where}: holds labels from {low} to {high}, but there are {len(classes)} classes, 0 to "
            f"{len(classes) - 1}; the file is damaged or of another data set"
        )


def resize(images: Tensor, side: int | None) -> Tensor:
    """Scale the shorter side to `side` pixels and cut the middle square; None changes nothing.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        uint8 [N, C, side, side], bilinear with antialiasing. An image's result does not depend on the others.
    """
    if side is None:
        return images
    height, width = images.shape[-2:]
    shorter = min(height, width)
    size = (side * height // shorter, side * width // shorter)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    scaled_bytes, cut_bytes = 8 * size[0] * size[1] * min(len(images), PIECE), 2 * side * side * len(images)
    shape = f"{images.shape[1]}x{side}x{side}"
    check_memory(images.shape[1] * (scaled_bytes + cut_bytes), f"data.resize={side}: {len(images):,} images of {shape}")
    parts = []
    for piece in torch.split(images, PIECE):
        scaled = functional.interpolate(piece.to(torch.float32), size, mode="bilinear", antialias=True)
        square = scaled[:, :, top : top + side, left : left + side]
        parts.append(square.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts)
