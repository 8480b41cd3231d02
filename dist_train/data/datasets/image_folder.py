"""Images in folders, `<root>/{train,val,test}/<class>/*`, or `<root>/<class>/*` with fractions for the splits."""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import PIL
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from dist_train.data.datasets.listing import (
    FOLDERS,
    File,
    PassedOver,
    identify,
    is_whole_folder,
    list_classes,
    list_pictures,
)
from dist_train.data.datasets.picture import ENDINGS, VERSION, decode
from dist_train.data.datasets.pixels import Pixels
from dist_train.data.samples import PIECE, Shape, SplitName
from dist_train.data.source import DecodedSplit, LazySplit, SplitSource, stamp_files
from dist_train.errors import DataError
from dist_train.settings.schema import ImageData, ImageFolderData
from dist_train.system.cpu import count_cores
from dist_train.system.escape import escape

LAYOUT = "data.root must hold train/<class>/*.jpg and test/<class>/*.jpg (or another ending of an image)"

_log = logging.getLogger("dist_train.data")


def list_splits(config: ImageData) -> tuple[SplitName, ...]:
    """List the splits that have a folder.

    Raises:
        DataError: there is nothing to evaluate, or two validation splits.
    """
    assert isinstance(config, ImageFolderData)  # noqa: S101
    if is_whole_folder(Path(config.root)):
        if not (config.test or config.validation):
            raise DataError(
                f"{escape(config.root)}: holds folders of classes and none of a split, and so nothing is held out. Set "
                "data.test, or data.validation, to a fraction, such as data.test=0.2"
            )
        return ("train",)
    if config.test:
        raise DataError(
            f"data.test={config.test}: {escape(config.root)} holds a folder of a split; a fraction is for a folder of "
            "classes only. Set data.test=0"
        )
    there = {split: _find_folders(config, split) for split in FOLDERS}
    if len(there["validation"]) > 1 or (there["validation"] and config.validation):
        names = " and ".join(escape(path) for path in there["validation"])
        other = f" beside data.validation={config.validation}" if config.validation else ""
        raise DataError(f"{names}{other}: one validation split is needed; set data.validation=0, or move one away")
    if not there["test"]:
        held_out = there["validation"] or config.validation
        if not held_out:
            raise DataError(
                f"{escape(Path(config.root) / 'test')}: is not a folder; {LAYOUT}. Instead of test, val/<class>/*.jpg "
                "or a fraction for data.validation is enough"
            )
        _log.info("%s has no folder test: only the validation split is evaluated", escape(config.root))
    return tuple(split for split, folders in there.items() if folders or split == "train")


def find(config: ImageData, split: SplitName, seed: int) -> SplitSource:  # noqa: ARG001
    """List the files of one split; raises DataError if the folders are not as `LAYOUT` says."""
    assert isinstance(config, ImageFolderData)  # noqa: S101
    root = Path(config.root)
    folder = root if is_whole_folder(root) else next(iter(_find_folders(config, split)), root / FOLDERS[split][0])
    passed = PassedOver()
    classes = _list_classes(folder, passed)
    listing = _list_images(folder, classes, passed)
    if str(passed):
        _log.info("%s: passed over %s", escape(folder), passed)
    counts = torch.tensor([len(found) for found in listing])
    labels = torch.arange(len(classes)).repeat_interleave(counts)
    found = [file for of_class in listing for file in of_class]
    files = ImageFiles(tuple(path for path, _ in found), config.resize, config.orientation)
    decoders = (PIL.__version__, simplejpeg.__version__)
    # torch scales
    versions = (VERSION, *decoders, config.orientation, *([torch.__version__] if config.resize else []))
    return SplitSource(
        stamp_files(found, root), partial(_read, files, labels, classes), versions, LazySplit(files, labels, classes)
    )


def _find_folders(config: ImageData, split: SplitName) -> list[Path]:
    return [path for name in FOLDERS[split] if (path := Path(config.root) / name).is_dir()]


def _list_classes(folder: Path, passed: PassedOver) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{escape(folder)}: is not a folder; {LAYOUT}")
    classes = list_classes(folder, passed)
    if not classes:
        raise DataError(f"{escape(folder)}: holds no folder of a class; {LAYOUT}")
    return classes


def _list_images(folder: Path, classes: tuple[str, ...], passed: PassedOver) -> list[list[File]]:
    """List the images of each class; a link in one class leads neither to another class nor up."""
    folders = [identify(folder / name) for name in classes]
    above = {identify(folder), identify(folder.parent)}
    listing = []
    for name, own in zip(classes, folders, strict=True):
        of_class = PassedOver()
        files = list_pictures(folder / name, ENDINGS, frozenset({*above, *folders} - {own}), of_class)
        if not files:
            others = f", but {of_class}" if str(of_class) else ""
            raise DataError(
                f"{escape(folder / name)}: holds no image ({', '.join(ENDINGS)}){others}; add some, or remove it"
            )
        listing.append(files)
        passed.add(of_class)
    return listing


@dataclass(frozen=True)
class ImageFiles:
    """Images that are decoded on demand, always RGB."""

    paths: tuple[str, ...]
    resize: int | None
    orientation: str

    @cached_property
    def shape(self) -> Shape:
        """Channels, height and width of the first image, which all others must have too."""
        channels, height, width = self.decode(self.paths[0]).shape
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
        pixels = self.decode(path)
        if pixels.shape != self.shape:
            raise DataError(
                f"{escape(path)} is {_format_size(pixels.shape)} and {escape(self.paths[0])} is "
                f"{_format_size(self.shape)} pixels (width x height); set data.resize to bring all images to one size"
            )
        return pixels

    def decode(self, path: str) -> Pixels:
        """Decode one of the files to uint8 [3, H, W], of any size; raises DataError."""
        return decode(path, self.resize, self.orientation)

    def _stack(self, images: Iterator[Pixels]) -> Tensor:
        """Stack images, in a worker of torch's DataLoader directly into shared memory."""
        found = [torch.from_numpy(image) for image in images]
        return default_collate(found) if found else torch.empty(0, *self.shape, dtype=torch.uint8)


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


def _format_size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]}"
