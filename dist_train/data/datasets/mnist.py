"""MNIST and the two sets in its format, as IDX files, read by torchvision."""

import math
from functools import partial
from pathlib import Path

import torch

from dist_train.data.datasets.download import DataFiles, require
from dist_train.data.source import DecodedSplit, SplitSource, check_labels, list_files, resize
from dist_train.errors import DataError
from dist_train.settings.schema import ImageData
from dist_train.system.plural import format_count

LOADERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""Classes of `torchvision.datasets`."""
PREFIXES = {"train": "train", "test": "t10k"}
NAMES = tuple(f"{prefix}-{kind}-ubyte" for prefix in PREFIXES.values() for kind in ("images-idx3", "labels-idx1"))


def find(config: ImageData, split: str, seed: int) -> SplitSource:  # noqa: ARG001
    """Find the files of one split; raises DataError if they are missing."""
    loader = LOADERS[config.name]
    folder = require(DataFiles(loader, f"{loader}/raw", NAMES), config)
    paths = [folder / name for name in NAMES if name.startswith(PREFIXES[split])]
    versions = (config.resize and torch.__version__,)
    return SplitSource(list_files(paths, folder), partial(_read, config, split, paths), versions)


def _read(config: ImageData, split: str, paths: list[Path]) -> DecodedSplit:
    from torchvision import datasets

    counts = {str(path): _check_header(path, dimensions) for path, dimensions in zip(paths, (3, 1), strict=True)}
    if len(set(counts.values())) > 1:
        held = " and ".join(f"{path} holds {count}" for path, count in counts.items())
        raise DataError(f"{held} samples; delete the damaged file and let data.download fetch it again")
    loaded = getattr(datasets, LOADERS[config.name])(config.root, train=split == "train")
    classes = tuple(loaded.classes)
    check_labels(loaded.targets, classes, paths[1])
    return DecodedSplit(resize(loaded.data[:, None], config.resize), loaded.targets, classes)


def _check_header(path: Path, dimensions: int) -> int:
    """Return the number of samples in an IDX file; raises DataError if its size is not that of its header."""
    with path.open("rb") as file:
        header = file.read(4 * (1 + dimensions))
    sizes = [int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4)]
    is_idx = len(header) == 4 * (1 + dimensions) and header[:4] == bytes((0, 0, 8, dimensions))
    if not is_idx or path.stat().st_size != len(header) + math.prod(sizes):
        size = len(header) + math.prod(sizes)
        wanted = f"{size} bytes" if is_idx else f"an IDX file of {format_count(dimensions, 'dimension')}"
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes and should be {wanted}; it is damaged. Delete it, and let "
            "data.download fetch it again or put the original there"
        )
    return sizes[0]
