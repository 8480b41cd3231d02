"""Open the data set that the settings name; the table of data sets."""

import importlib
import logging
import math
from dataclasses import replace
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from dist_train import seeds
from dist_train.data import cache, memory, statistics
from dist_train.data.samples import Dataset, InMemoryImages, Samples
from dist_train.data.source import LazySplit, SplitSource
from dist_train.distributed.world import World
from dist_train.errors import DataError
from dist_train.settings.schema import Data, Normalize

MODULES = {
    "mnist": "mnist",
    "fashion_mnist": "mnist",
    "kmnist": "mnist",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "digits": "digits",
    "image_folder": "image_folder",
    "synthetic": "synthetic",
}
"""Data set -> module of `datasets`, imported on use, with `find(config, split, seed) -> SplitSource`."""

Loader = Literal["in_memory", "workers"]

_log = logging.getLogger("dist_train.data")


def open_dataset(config: Data, seed: int, world: World) -> Dataset:
    """Find, download and decode the data once per machine, and choose the samples of each split.

    Runs no collective: the ranks of a machine wait for each other by a file lock.

    Args:
        seed: seed of the validation split and of synthetic images.

    Raises:
        DataError: files that are missing or damaged, or data that do not fit the settings.
    """
    try:
        return _open(config, seed, world)
    except OSError as error:
        raise DataError(
            f"data.name {config.name}: {error}; check that data.root ({config.root}) can be read"
        ) from error


def import_module_of(config: Data) -> ModuleType:
    """Import the module that finds and reads the data set."""
    return importlib.import_module(f"dist_train.data.datasets.{MODULES[config.name]}")


def _open(config: Data, seed: int, world: World) -> Dataset:
    module = import_module_of(config)
    sources: dict[str, SplitSource] = {split: module.find(config, split, seed) for split in ("train", "test")}
    loader, contents = _open_splits(config, sources, world)
    _check_shapes(config, contents)
    normalize = _choose_normalization(config, sources["train"], contents["train"])
    if loader == "in_memory":
        contents = _move_to_device(contents, world.device)
    train, test = contents["train"], contents["test"]
    chosen, held_out = _choose_samples(len(train.labels), config, seed)
    return Dataset(
        train=_select_samples("train", train, chosen),
        validation=None if held_out is None else _select_samples("validation", train, held_out),
        test=_select_samples("test", test, _space_evenly(len(test.labels), config.limit_test)),
        shape=train.images.shape,
        classes=train.classes,
        normalize=normalize,
        loader=loader,
    )


def _open_splits(config: Data, sources: dict[str, SplitSource], world: World) -> tuple[Loader, dict[str, LazySplit]]:
    """Choose the loader and open both splits, decoded if the loader is in memory."""
    contents = {split: source.lazy or _open_cached(config, split, source, world) for split, source in sources.items()}
    loader = _choose_loader(config, contents)
    if loader == "in_memory":
        for split, source in sources.items():
            if source.lazy:
                contents[split] = _open_cached(config, split, source, world)
    return loader, contents


def _open_cached(config: Data, split: str, source: SplitSource, world: World) -> LazySplit:
    return cache.open_split(cache.locate_entry(config, split, source), source, verify=world.local_rank == 0)


def _choose_loader(config: Data, contents: dict[str, LazySplit]) -> Loader:
    if config.loader != "auto":
        return config.loader
    size, available = _count_bytes(contents), memory.host_bytes()
    loader: Loader = "in_memory" if size <= available // 2 else "workers"
    _log.info("data.loader auto is %s: %.1f MB of images, %.0f MB of memory", loader, size / 1e6, available / 1e6)
    return loader


def _count_bytes(contents: dict[str, LazySplit]) -> int:
    return sum(len(found.labels) * math.prod(found.images.shape) for found in contents.values())


def _move_to_device(contents: dict[str, LazySplit], device: torch.device) -> dict[str, LazySplit]:
    """Copy the images to a GPU, if they take less than a quarter of its free memory."""
    if device.type == "cpu" or _count_bytes(contents) >= memory.device_bytes(device) // 4:
        return contents
    moved = {}
    for split, found in contents.items():
        tensor = torch.cat([piece.to(device) for piece in found.images.pieces()])
        moved[split] = replace(found, images=InMemoryImages(tensor))
    return moved


def _check_shapes(config: Data, contents: dict[str, LazySplit]) -> None:
    train, test = (
        "{} channels, {} x {} pixels (height x width)".format(*contents[split].images.shape)
        for split in ("train", "test")
    )
    if train != test:
        raise DataError(
            f"data.name {config.name} under {config.root}: images of train have {train}, of test {test}; set "
            "data.resize to bring all to one size"
        )


def _choose_normalization(config: Data, source: SplitSource, train: LazySplit) -> Normalize:
    channels = train.images.shape[0]
    if isinstance(config.normalize, Normalize):
        for key, numbers in config.normalize:
            if len(numbers) != channels:
                raise DataError(
                    f"data.normalize: {key} has {len(numbers)} number(s), but images of {config.name} have "
                    f"{channels} channel(s); give one a channel, or `auto`"
                )
        return config.normalize
    if config.name in statistics.KNOWN:
        return statistics.KNOWN[config.name]
    entry = cache.locate_entry(config, "train", source)
    found = cache.load_statistics(entry, lambda: statistics.compute(train.images))
    return Normalize(mean=tuple(found["mean"]), std=tuple(found["std"]))


def _select_samples(
    split: Literal["train", "validation", "test"], contents: LazySplit, chosen: Tensor | None
) -> Samples:
    labels = contents.labels if chosen is None else contents.labels[chosen]
    return Samples(split, chosen, labels, contents.images)


def _space_evenly(count: int, limit: int | None) -> Tensor | None:
    """Choose `limit` evenly spaced numbers below `count`: int64 [limit], None for all of them."""
    if limit is None or limit >= count:
        return None
    return torch.arange(limit) * count // limit


def _choose_samples(count: int, config: Data, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """Choose the training samples (None for all) and the validation samples (None for none) of `count`."""
    chosen = _space_evenly(count, config.limit_train)
    if config.validation == 0:
        return chosen, None
    return _split_off(torch.arange(count) if chosen is None else chosen, config.validation, seed)


def _split_off(indices: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split off a random `fraction` for validation; return training and validation samples, each ascending."""
    held_out = max(1, math.floor(fraction * len(indices) + 0.5))
    if held_out >= len(indices):
        raise DataError(
            f"data.validation is {fraction}: of {len(indices)} training sample(s) that holds out {held_out} and leaves "
            "none to train on; lower it, or raise data.limit_train"
        )
    order = torch.randperm(len(indices), generator=seeds.generator(seed, "validation"))
    return indices[order[held_out:].sort().values], indices[order[:held_out].sort().values]
