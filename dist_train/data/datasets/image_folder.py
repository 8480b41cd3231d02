"""Images in folders, `<root>/{train,test}/<class>/*`, listed as torchvision's ImageFolder lists them."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dist_train.data.samples import PIECE, Shape
from dist_train.data.source import DecodedSplit, LazySplit, SplitSource
from dist_train.errors import DataError
from dist_train.settings.schema import Data
from dist_train.system.cpu import count_cores

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's IMG_EXTENSIONS."""
LAYOUT = "data.root must hold train/<class>/*.jpg and test/<class>/*.jpg (or another ending of an image)"


def find(config: Data, split: str, seed: int) -> SplitSource:  # noqa: ARG001
    """List the files of one split; raises DataError if the folders are not as `LAYOUT` says."""
    root = Path(config.root)
    classes = _list_classes(root / split)
    if split == "test":
        _check_same(root, _list_classes(root / "train"), classes)
    listing = [_list_images(root / split / name) for name in classes]
    counts = torch.tensor([len(found) for found in listing])
    labels = torch.arange(len(classes)).repeat_interleave(counts)
    found = [file for of_class in listing for file in of_class]
    files = ImageFiles(tuple(file.path for file in found), config.resize)
    identity = (_digest(found, root), PIL.__version__)
    return SplitSource(identity, partial(_read, files, labels, classes), LazySplit(files, labels, classes))


@dataclass(frozen=True)
class ImageFiles:
    """Images that are decoded on demand, always RGB."""

    paths: tuple[str, ...]
    resize: int | None

    @cached_property
    def shape(self) -> Shape:
        """Channels, height and width of the first image, which all others must have too."""
        channels, height, width = _decode(self.paths[0], self.resize).shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Tensor) -> Tensor:
        """Decode the images of these numbers, int64 [B], to uint8 [B, 3, H, W]; raises DataError."""
        return self._stack(self._read_image(self.paths[index]) for index in indices.tolist())

    def pieces(self) -> Iterator[Tensor]:
        """Decode all images in order, a piece at a time, on all cores, with a progress bar on a terminal."""
        with ThreadPoolExecutor(count_cores()) as pool, _open_progress_bar(len(self.paths)) as bar:
            for start in range(0, len(self.paths), PIECE):
                images = pool.map(self._read_image, self.paths[start : start + PIECE])
                yield self._stack(_count_progress(images, bar))

    def _read_image(self, path: str) -> Pixels:
        pixels = _decode(path, self.resize)
        if pixels.shape != self.shape:
            raise DataError(
                f"{path} is {_format_size(pixels.shape)} and {self.paths[0]} is {_format_size(self.shape)} pixels "
                "(width x height); set data.resize to bring all images to one size"
            )
        return pixels

    def _stack(self, images: Iterator[Pixels]) -> Tensor:
        found = list(images)
        return torch.from_numpy(np.stack(found)) if found else torch.empty(0, *self.shape, dtype=torch.uint8)


@dataclass(frozen=True)
class _File:
    path: str
    size: int
    mtime_ns: int


def _read(files: ImageFiles, labels: Tensor, classes: tuple[str, ...]) -> DecodedSplit:
    images = torch.empty(len(files), *files.shape, dtype=torch.uint8)  # allocated once, without a second copy in pieces
    for target, piece in zip(torch.split(images, PIECE), files.pieces(), strict=True):
        target.copy_(piece)
    return DecodedSplit(images, labels, classes)


def _open_progress_bar(total: int) -> "tqdm[Any]":
    tqdm.monitor_interval = 0  # starts no thread
    # disable=None: only on a terminal
    return tqdm(total=total, desc="decoding", unit="image", disable=None, dynamic_ncols=True, leave=False)


def _count_progress(images: Iterable[Pixels], bar: "tqdm[Any]") -> Iterator[Pixels]:
    for image in images:
        bar.update()
        yield image


def _list_classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; {LAYOUT}")
    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not classes:
        raise DataError(f"{folder}: holds no folder of a class; {LAYOUT}")
    return classes


def _check_same(root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    if train != test:
        one_sided = sorted(set(train) ^ set(test))
        where = [f"{root / ('train' if name in train else 'test') / name}" for name in one_sided]
        raise DataError(
            f"{root}: train and test hold different classes: only one of them has {', '.join(where[:10])}. "
            "Give both the same folders"
        )


def _list_images(folder: Path) -> list[_File]:
    """List the image files at any depth, in torchvision's order."""
    found = []
    for directory, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if name.lower().endswith(ENDINGS):
                path = os.path.join(directory, name)  # noqa: PTH118 - a Path for each of a million files takes seconds
                status = os.stat(path)  # noqa: PTH116
                found.append(_File(path, status.st_size, status.st_mtime_ns))
    if not found:
        raise DataError(f"{folder}: holds no image ({', '.join(ENDINGS)}); add some, or remove the folder")
    return found


def _digest(files: list[_File], root: Path) -> str:
    digest = hashlib.sha256()
    start = len(str(root))
    for file in files:
        digest.update(f"{file.path[start:]}\0{file.size}\0{file.mtime_ns}\n".encode())
    return digest.hexdigest()


def _decode(path: str, resize: int | None) -> Pixels:
    """Decode one file to uint8 [3, H, W]."""
    try:
        with Image.open(path) as file:
            file.load()
            image = file if file.mode == "RGB" else file.convert("RGB")
    except Exception as error:  # a damaged file makes PIL's plugins raise nearly anything
        raise DataError(f"{path}: is not a readable image ({error}); replace it, or remove it") from error
    if resize is not None:
        image = _cut_square(image, resize)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _cut_square(image: Image.Image, side: int) -> Image.Image:
    """Scale the shorter side to `side` pixels and cut the middle square."""
    shorter = min(image.size)
    width, height = side * image.width // shorter, side * image.height // shorter
    left, top = (width - side) // 2, (height - side) // 2
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + side, top + side))


def _format_size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]}"
