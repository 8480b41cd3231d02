"""CIFAR-10 and CIFAR-100, from the batches in Python's pickle format."""

import codecs
import hashlib
import io
import logging
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_train.data.datasets.download import DataFiles, require
from dist_train.data.source import DecodedSplit, SplitSource, check_labels, list_files, resize
from dist_train.errors import DataError
from dist_train.settings.schema import ImageData

SHAPE = (3, 32, 32)

_log = logging.getLogger("dist_train.data")


@dataclass(frozen=True)
class Layout:
    """The names of a data set's files, and of the keys in them."""

    loader: str
    folder: str
    batches: dict[str, tuple[str, ...]]
    meta: str
    archive: str
    labels: str
    classes: str

    @property
    def files(self) -> DataFiles:
        """All files of the data set."""
        names = (*self.batches["train"], *self.batches["test"], self.meta)
        return DataFiles(self.loader, self.folder, names, self.archive)


LAYOUTS = {
    "cifar10": Layout(
        loader="CIFAR10",
        folder="cifar-10-batches-py",
        batches={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        meta="batches.meta",
        archive="cifar-10-python.tar.gz",
        labels="labels",
        classes="label_names",
    ),
    "cifar100": Layout(
        loader="CIFAR100",
        folder="cifar-100-python",
        batches={"train": ("train",), "test": ("test",)},
        meta="meta",
        archive="cifar-100-python.tar.gz",
        labels="fine_labels",
        classes="fine_label_names",
    ),
}


def find(config: ImageData, split: str, seed: int) -> SplitSource:  # noqa: ARG001
    """Find the files of one split; raises DataError if they are missing."""
    layout = LAYOUTS[config.name]
    folder = require(layout.files, config)
    paths = [folder / name for name in layout.batches[split]]
    files = list_files([*paths, folder / layout.meta], folder)
    versions = (config.resize and torch.__version__,)
    return SplitSource(files, partial(_read, config, layout, paths, folder / layout.meta), versions)


def _read(config: ImageData, layout: Layout, paths: list[Path], meta: Path) -> DecodedSplit:
    classes = _read_classes(meta, layout)
    batches = [_read_batch(path, layout, classes) for path in paths]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    _warn_if_not_original(layout, paths)
    return DecodedSplit(resize(images, config.resize), labels, classes)


def _read_batch(path: Path, layout: Layout, classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Read images, uint8 [N, 3, 32, 32], and labels, int64 [N], from one file."""
    content = _unpickle(path)
    data, numbers = content.get("data"), content.get(layout.labels)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise _damage_error(path, "its `data` are no rows of 3072 bytes")
    if not isinstance(numbers, list) or len(numbers) != len(data) or not all(type(label) is int for label in numbers):
        raise _damage_error(path, f"its `{layout.labels}` are no list of {len(data)} numbers")
    labels = torch.tensor(numbers, dtype=torch.int64)
    check_labels(labels, classes, path)
    return torch.from_numpy(data).view(-1, *SHAPE), labels


def _read_classes(path: Path, layout: Layout) -> tuple[str, ...]:
    names = _unpickle(path).get(layout.classes)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _damage_error(path, f"its `{layout.classes}` are no list of names")
    return tuple(names)


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise _damage_error(path, f"it is not a readable pickle: {error}") from error
    if not isinstance(content, dict):
        raise _damage_error(path, "it holds no dictionary")
    return content


_ARRAY_PARTS: dict[str, Any] = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "_frombuffer": np.empty(0).__reduce_ex__(5)[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}
"""All names in the pickle of an array of bytes, in any protocol."""


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain values only, so that a file of data cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what builds an array, from any numpy module; refuse everything else."""
        if module.split(".")[0] == "numpy" and name in _ARRAY_PARTS:
            return _ARRAY_PARTS[name]
        if (module, name) == ("_codecs", "encode"):  # bytes, in protocol 2
            return codecs.encode
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of data")


def _damage_error(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what}. The file is damaged: delete it, and let data.download fetch it again, or put the original "
        "there"
    )


def _warn_if_not_original(layout: Layout, paths: list[Path]) -> None:
    """Warn if the files are not the original ones, with which published figures were measured."""
    from torchvision import datasets

    loader = getattr(datasets, layout.loader)
    original = dict([*loader.train_list, *loader.test_list])
    if any(_hash_md5(path) != original[path.name] for path in paths):
        _log.warning("%s: these are not the original %s files", paths[0].parent, layout.loader)


def _hash_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
