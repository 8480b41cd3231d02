"""Open the data set that the settings name; the table of data sets."""

import importlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeVar

import torch
from torch import Tensor

from dist_train.data import memory, statistics
from dist_train.data.cache import entries as cache
from dist_train.data.cache.digests import find_digest
from dist_train.data.cache.location import CacheError, choose_directory, choose_fallback
from dist_train.data.datasets.listing import is_whole_folder
from dist_train.data.identity import DataIdentity, SplitIdentity
from dist_train.data.own import opening as own
from dist_train.data.own.augmenting import augment_images
from dist_train.data.samples import (
    Dataset,
    InMemoryImages,
    LabelledImages,
    OpenSplit,
    Samples,
    SplitName,
    make_black_images,
)
from dist_train.data.selection import choose_parts, limit_samples
from dist_train.data.source import LazySplit, SplitSource
from dist_train.distributed.world import World
from dist_train.errors import ConfigError, DataError
from dist_train.settings.schema import Data, ImageData, ImageFolderData, Normalize, OwnAugment, OwnData, RowData
from dist_train.system.escape import escape
from dist_train.system.plural import format_count

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
"""Data set -> module of `datasets`, imported on use, with `find(config, split, seed) -> SplitSource`, and
`list_splits(config)` where they are not train and test."""

Loader = Literal["in_memory", "workers"]
Contents = dict[SplitName, LazySplit]
T = TypeVar("T")

_log = logging.getLogger("dist_train.data")


def open_dataset(
    config: Data, seed: int, world: World, stored: DataIdentity | None = None, ignored_label: int | None = None
) -> Dataset:
    """Find, download and decode the data once per machine, and choose the samples of each split.

    Runs no collective: the ranks of a machine wait for each other by a file lock.

    Args:
        seed: seed of the validation split and of synthetic images.
        stored: of the run that is resumed; `data.normalize: auto` is its mean and std, and tables are scaled as there.
        ignored_label: a label that is no class and may be in the user's data.

    Raises:
        ConfigError: settings that the data set does not have.
        DataError: files that are missing or damaged, or data that do not fit the settings.
    """
    if isinstance(config, OwnData | RowData):
        return own.open_dataset(config, seed, world, stored, ignored_label)
    assert isinstance(config, ImageData)  # noqa: S101
    if config.validation == "split":
        raise ConfigError(
            f"data.validation=split: {config.name} has no such split by itself; give a fraction of train. (A data set "
            "of your own can have one, and image_folder reads a folder val without this setting)"
        )
    return _use_cache(config, world, lambda usable: _open(usable, seed, world, stored))


def open_split(
    config: Data, seed: int, world: World, split: SplitName, stored: DataIdentity, ignored_label: int | None = None
) -> OpenSplit:
    """Open one split for an evaluation with the mean and std that the run has `stored`; read no other files.

    Raises:
        DataError: as `open_dataset`.
    """
    if isinstance(config, OwnData | RowData):
        return own.open_split(config, seed, world, split, stored, ignored_label)
    assert isinstance(config, ImageData)  # noqa: S101
    return _use_cache(config, world, lambda usable: _open_one(usable, seed, world, split, stored))


def open_pictures(config: ImageData, seed: int, world: World) -> tuple[tuple[str, ...], dict[SplitName, Samples]]:
    """Open the pictures of all splits as they are, of any size, without augmentation; those in files are not read yet.

    Returns:
        The names of the classes, and the samples of each split.

    Raises:
        DataError: as `open_dataset`, but for a file of a picture that can't be read.
    """
    return _use_cache(config, world, lambda usable: _open_pictures(usable, seed, world))


def import_module_of(config: ImageData) -> ModuleType:
    """Import the module that finds and reads the data set."""
    return importlib.import_module(f"dist_train.data.datasets.{MODULES[config.name]}")


def _use_cache(config: ImageData, world: World, open_data: Callable[[ImageData], T]) -> T:
    """Open data with the cache of this user; with another directory if the default one can't be written."""
    try:
        try:
            return open_data(_replace_cache(config, choose_directory(Path(config.cache))))
        except CacheError as error:
            fallback = choose_fallback(Path(config.cache))
            if fallback is None:
                raise
            _log.log(logging.WARNING if world.is_main else logging.INFO, "%s. Now it is %s", error, fallback)
            return open_data(_replace_cache(config, fallback))
    except OSError as error:
        raise DataError(
            f"data.name {config.name}: {escape(error)}; check that data.root ({escape(config.root)}) can be read"
        ) from error


def _replace_cache(config: ImageData, directory: Path) -> ImageData:
    return config.model_copy(update={"cache": str(directory)})


def _open(config: ImageData, seed: int, world: World, stored: DataIdentity | None) -> Dataset:
    found = {split: _find(config, seed, split) for split in _list_splits(config)}
    loader, contents = _open_splits(config, found, world)
    _check_shapes(config, contents)
    train = contents["train"]
    normalize = _choose_normalization(config, found["train"], train, stored)
    identity = _describe(found, contents, normalize)
    if loader == "in_memory" and not isinstance(config.augment, OwnAugment):
        contents = _move_to_device(contents, world.device)
    samples = _select_all(contents, config, seed)
    return Dataset(
        train=_augment(samples["train"], config, seed, world),
        validation=samples.get("validation"),
        test=samples.get("test"),
        shape=train.images.shape,
        classes=train.classes,
        normalize=normalize,
        loader=loader,
        identity=identity,
        make_example=partial(make_black_images, train.images.shape),
    )


def _open_pictures(config: ImageData, seed: int, world: World) -> tuple[tuple[str, ...], dict[SplitName, Samples]]:
    sources = {split: import_module_of(config).find(config, split, seed) for split in _list_splits(config)}
    contents = {
        split: source.lazy or _open_cached(_find(config, seed, split), world) for split, source in sources.items()
    }
    _check_classes(config, contents)
    return contents["train"].classes, _select_all(contents, config, seed)


def _open_one(config: ImageData, seed: int, world: World, split: SplitName, stored: DataIdentity) -> OpenSplit:
    is_whole = _is_whole(config)
    is_part_of_train = is_whole or (split == "validation" and config.validation not in (0, "split"))
    if not is_part_of_train and split not in {*stored.splits, *_list_splits(config)}:
        raise DataError(f"--split {split}: this run has none; it has {', '.join(sorted(stored.splits))}")
    source: SplitName = "train" if is_part_of_train else split
    found = {source: _find(config, seed, source)}
    loader, contents = _open_splits(config, found, world)
    normalize = _choose_normalization(config, found[source], contents[source], stored)
    identity = _describe(found, contents, normalize)
    if loader == "in_memory":
        contents = _move_to_device(contents, world.device)
    opened = contents[source]
    if source == "train":
        parts = choose_parts(opened.labels, config, seed, is_whole=is_whole)
        if split not in parts:
            raise DataError(f"--split {split}: data.{split} is 0, and so there is none")
        samples = _select_samples(split, opened, parts[split])
    else:
        samples = _select_held_out(split, opened, config)
    shape = opened.images.shape
    return OpenSplit(shape, opened.classes, normalize, loader, identity, partial(make_black_images, shape), samples)


def _is_whole(config: ImageData) -> bool:
    """Whether the files of all splits are in one folder."""
    return isinstance(config, ImageFolderData) and is_whole_folder(Path(config.root))


def _list_splits(config: ImageData) -> tuple[SplitName, ...]:
    module = import_module_of(config)
    return module.list_splits(config) if hasattr(module, "list_splits") else ("train", "test")


@dataclass(frozen=True)
class _FoundSplit:
    """A split that was found, and where its decoded images are or will be."""

    source: SplitSource
    digest: str
    entry: cache.CacheEntry


def _find(config: ImageData, seed: int, split: SplitName) -> _FoundSplit:
    source: SplitSource = import_module_of(config).find(config, split, seed)
    digest = find_digest(config, source.files) if source.files.paths else ""
    return _FoundSplit(source, digest, cache.locate_entry(config, split, source, digest))


def _describe(found: dict[SplitName, _FoundSplit], contents: Contents, normalize: Normalize) -> DataIdentity:
    (opened, *_) = contents.values()
    counts = {split: torch.bincount(contents[split].labels, minlength=len(opened.classes)).tolist() for split in found}
    splits = {
        str(split): SplitIdentity(tuple(counts[split]), each.digest, sum(counts[split]))
        for split, each in found.items()
    }
    return DataIdentity(opened.images.shape, opened.classes, normalize, splits)


def _open_splits(config: ImageData, found: dict[SplitName, _FoundSplit], world: World) -> tuple[Loader, Contents]:
    """Choose the loader and open the splits, decoded if the loader is in memory."""
    contents = {split: each.source.lazy or _open_cached(each, world) for split, each in found.items()}
    _check_classes(config, contents)
    loader = _choose_loader(config, contents)
    if loader == "in_memory":
        for split, each in found.items():
            if each.source.lazy:
                contents[split] = _open_cached(each, world)
    return loader, contents


def _open_cached(found: _FoundSplit, world: World) -> LazySplit:
    return cache.open_split(found.entry, found.source, verify=world.local_rank == 0)


def _choose_loader(config: ImageData, contents: Contents) -> Loader:
    if config.loader != "auto":
        return config.loader
    if isinstance(config.augment, OwnAugment):
        return "workers"
    size, available = _count_bytes(contents), memory.host_bytes()
    loader: Loader = "in_memory" if size <= available // 2 else "workers"
    _log.info("data.loader auto is %s: %.1f MB of images, %.0f MB of memory", loader, size / 1e6, available / 1e6)
    return loader


def _count_bytes(contents: Contents) -> int:
    return sum(len(found.labels) * math.prod(found.images.shape) for found in contents.values())


def _move_to_device(contents: Contents, device: torch.device) -> Contents:
    """Copy the images to a GPU, if they take less than a quarter of its free memory."""
    if device.type == "cpu" or _count_bytes(contents) >= memory.device_bytes(device) // 4:
        return contents
    moved = {}
    for split, found in contents.items():
        tensor = torch.cat([piece.to(device) for piece in found.images.pieces()])
        moved[split] = replace(found, images=InMemoryImages(tensor))
    return moved


def _check_classes(config: ImageData, contents: Contents) -> None:
    train = contents.get("train")
    for split, found in contents.items():
        if train and found.classes != train.classes:
            one_sided = sorted(set(train.classes) ^ set(found.classes))
            where = [f"{'train' if name in train.classes else split} {escape(name)}" for name in one_sided[:10]]
            raise DataError(
                f"data.root {escape(config.root)}: train and {split} hold different classes: only one of them has "
                f"{', '.join(where)}. Give both the same folders"
            )


def _check_shapes(config: ImageData, contents: Contents) -> None:
    shapes = {
        split: "{} channels, {} x {} pixels (height x width)".format(*found.images.shape)
        for split, found in contents.items()
    }
    for split, shape in shapes.items():
        if shape != shapes["train"]:
            raise DataError(
                f"data.name {config.name} under {escape(config.root)}: images of train have {shapes['train']}, of "
                f"{split} {shape}; set data.resize to bring all to one size"
            )


def _choose_normalization(
    config: ImageData, found: _FoundSplit, train: LazySplit, stored: DataIdentity | None
) -> Normalize:
    channels = train.images.shape[0]
    if isinstance(config.normalize, Normalize):
        for key, numbers in config.normalize:
            if len(numbers) != channels:
                raise DataError(
                    f"data.normalize: {key} has {format_count(len(numbers), 'number')}, but images of {config.name} "
                    f"have {format_count(channels, 'channel')}; give one a channel, or `auto`"
                )
        return config.normalize
    if stored and stored.normalize and len(stored.normalize.mean) == channels:
        return stored.normalize
    if config.name in statistics.KNOWN:
        return statistics.KNOWN[config.name]
    computed = cache.load_statistics(found.entry, lambda: statistics.compute(train.images))
    return Normalize(mean=tuple(computed["mean"]), std=tuple(computed["std"]))


def _select_all(contents: Contents, config: ImageData, seed: int) -> dict[SplitName, Samples]:
    """Choose the samples of each split."""
    parts = choose_parts(contents["train"].labels, config, seed, is_whole=_is_whole(config))
    samples = {split: _select_samples(split, contents["train"], chosen) for split, chosen in parts.items()}
    return samples | {split: _select_held_out(split, contents[split], config) for split in contents if split != "train"}


def _select_held_out(split: SplitName, contents: LazySplit, config: ImageData) -> Samples:
    limit = config.limit_test if split == "test" else None
    return _select_samples(split, contents, limit_samples(len(contents.labels), limit, config))


def _augment(samples: Samples, config: ImageData, seed: int, world: World) -> Samples:
    """Let the user's code change the samples, if the settings name some; the built-in changes happen on the device."""
    if not isinstance(config.augment, OwnAugment):
        return samples
    assert isinstance(samples.source, LabelledImages)  # noqa: S101
    return replace(samples, source=augment_images(samples.source, config.augment, seed, world.rank))


def _select_samples(split: SplitName, contents: LazySplit, chosen: Tensor | None) -> Samples:
    return Samples(split, chosen, LabelledImages(contents.images, contents.labels))
