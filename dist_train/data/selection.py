"""Choose the samples of each split: limits, and samples held out of the training split."""

import math

import torch
from torch import Tensor

from dist_train import seeds
from dist_train.data.samples import SplitName
from dist_train.errors import DataError
from dist_train.settings.schema import Data, ImageFolderData
from dist_train.system.plural import format_count


def space_evenly(count: int, limit: int | None) -> Tensor | None:
    """Choose `limit` evenly spaced numbers below `count`: int64 [limit], None for all of them."""
    if limit is None or limit >= count:
        return None
    return torch.arange(limit) * count // limit


def limit_samples(count: int, limit: int | None, config: Data) -> Tensor | None:
    """Choose at most `limit` numbers below `count` as `data.limit` says: int64 [limit], None for all of them."""
    if config.limit == "first" and limit is not None and limit < count:
        return torch.arange(limit)
    return space_evenly(count, limit)


def choose_by_class(labels: Tensor, config: ImageFolderData, seed: int) -> dict[SplitName, Tensor]:
    """Choose the samples of each split, each with its fraction of every class: int64, ascending.

    Raises:
        DataError: a split that is wanted gets no sample, or a class has none left to train on.
    """
    validation = 0.0 if config.validation == "split" else config.validation
    fractions: dict[SplitName, float] = {"test": config.test, "validation": validation}
    parts: dict[SplitName, list[Tensor]] = {split: [] for split in ("train", "test", "validation")}
    of_classes = torch.split(labels.argsort(stable=True), labels.bincount().tolist())
    for label, numbers in enumerate(of_classes):
        order = torch.randperm(len(numbers), generator=seeds.generator(seed, "split of a class", label))
        left = numbers[order]
        for split, fraction in fractions.items():
            count = math.floor(fraction * len(numbers) + 0.5)
            parts[split].append(left[:count])
            left = left[count:]
        if len(left) == 0:
            raise DataError(
                f"data.test={config.test} and data.validation={config.validation} leave no image to train on of a "
                f"class with {format_count(len(numbers), 'image')}; lower them"
            )
        parts["train"].append(left)
    found = {split: torch.cat(numbers).sort().values for split, numbers in parts.items()}
    for split, fraction in fractions.items():
        if fraction and len(found[split]) == 0:
            raise DataError(f"data.{split}={fraction} holds out no image of any class; raise it")
    limits = {"train": config.limit_train, "test": config.limit_test, "validation": None}
    chosen = {split: limit_samples(len(numbers), limits[split], config) for split, numbers in found.items()}
    return {split: numbers if (some := chosen[split]) is None else numbers[some] for split, numbers in found.items()}


def choose_samples(count: int, config: Data, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """Choose the training samples (None for all) and the validation samples (None for none) of `count`.

    Raises:
        DataError: no training sample is left.
    """
    chosen = limit_samples(count, config.limit_train, config)
    if config.validation == "split" or config.validation == 0:
        return chosen, None
    return split_off("validation", torch.arange(count) if chosen is None else chosen, config.validation, seed)


def split_off(split: SplitName, indices: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split off a random `fraction` for a split; return the samples that are left and those of the split, ascending.

    Raises:
        DataError: none is left.
    """
    held_out = max(1, math.floor(fraction * len(indices) + 0.5))
    if held_out >= len(indices):
        raise DataError(
            f"data.{split} is {fraction}: of {format_count(len(indices), 'training sample')} that holds out "
            f"{held_out} and leaves none to train on; lower it, or use more samples"
        )
    order = torch.randperm(len(indices), generator=seeds.generator(seed, split))
    return indices[order[held_out:].sort().values], indices[order[:held_out].sort().values]


def choose_parts(labels: Tensor, config: Data, seed: int, *, is_whole: bool = False) -> dict[SplitName, Tensor | None]:
    """Choose which samples of the training files belong to which splits: int64, ascending, None for all.

    Args:
        labels: of these samples, int64 [N].
        is_whole: the files hold all splits.

    Raises:
        DataError: a split is empty.
    """
    if is_whole:
        assert isinstance(config, ImageFolderData)  # noqa: S101
        parts = choose_by_class(labels, config, seed)
        return {split: numbers for split, numbers in parts.items() if len(numbers)}
    chosen, held_out = choose_samples(len(labels), config, seed)
    return {"train": chosen} if held_out is None else {"train": chosen, "validation": held_out}
