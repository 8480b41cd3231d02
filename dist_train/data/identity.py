"""Which data a run trains on: class names, counts, mean and std, and a digest of the files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from dist_train.settings.schema import Normalize
from dist_train.system.escape import escape

_T = TypeVar("_T")

MOST = 10
"""Differences of one kind that are listed."""


@dataclass(frozen=True)
class SplitIdentity:
    """The files of one split, before any setting chooses samples."""

    counts: tuple[int, ...]
    """Samples of each class."""
    files: str
    """SHA-256 of the names and contents of the files, wherever they are."""


@dataclass(frozen=True)
class DataIdentity:
    """Data as a checkpoint describes them, and as the hosts of a run compare them."""

    shape: tuple[int, ...]
    """Channels, height and width of an image."""
    classes: tuple[str, ...]
    normalize: Normalize
    splits: dict[str, SplitIdentity]

    def restrict(self, splits: Iterable[str]) -> "DataIdentity":
        """Return what is stored of these splits only."""
        return replace(self, splits={name: split for name, split in self.splits.items() if name in splits})

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only."""
        return {
            "shape": list(self.shape),
            "classes": list(self.classes),
            "mean": list(self.normalize.mean),
            "std": list(self.normalize.std),
            "splits": {
                name: {"counts": list(split.counts), "files": split.files} for name, split in self.splits.items()
            },
        }

    @classmethod
    def from_dict(cls, found: Any) -> "DataIdentity":
        """Return what `to_dict` wrote; raises ValueError for anything else."""
        try:
            identity = cls(
                tuple(_check(int, number) for number in found["shape"]),
                tuple(_check(str, name) for name in found["classes"]),
                Normalize(mean=tuple(found["mean"]), std=tuple(found["std"])),
                {
                    _check(str, name): SplitIdentity(
                        tuple(_check(int, count) for count in split["counts"]), _check(str, split["files"])
                    )
                    for name, split in found["splits"].items()
                },
            )
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"no description of data: {error!r}") from error
        if any(len(split.counts) != len(identity.classes) for split in identity.splits.values()):
            raise ValueError("no description of data: a split has counts of other classes")
        if not len(identity.shape) == 3 or len(identity.normalize.mean) != len(identity.normalize.std):
            raise ValueError("no description of data: a shape, or mean and std, of another length")
        return identity


def _check(kind: type[_T], value: Any) -> _T:
    """Return a value of this very type; raises ValueError for another, and for a negative number."""
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise ValueError(f"{value!r:.40} is no {kind.__name__}")
    return value


def compare(one: DataIdentity, other: DataIdentity, of_one: str, of_other: str) -> list[str]:
    """List the differences of the data, each with both values; mean and std are not compared.

    Args:
        of_one: how the values of `one` are called, e.g. "in the checkpoint".
        of_other: how those of `other` are called, e.g. "now".
    """
    found = [*_compare_classes(one.classes, other.classes, of_one, of_other)]
    if one.shape != other.shape:
        found.append(f"images: {_format(one.shape)} {of_one}, {_format(other.shape)} {of_other}")
    for split in sorted({*one.splits, *other.splits}):
        mine, theirs = one.splits.get(split), other.splits.get(split)
        if mine is None or theirs is None:
            there, missing = (of_other, of_one) if mine is None else (of_one, of_other)
            found.append(f"split {split}: {there}, and not {missing}")
        elif mine != theirs:
            found += _compare_split(split, one, other, of_one, of_other)
    return found


def _compare_classes(one: tuple[str, ...], other: tuple[str, ...], of_one: str, of_other: str) -> Iterator[str]:
    if one == other:
        return
    only_one, only_other = sorted(set(one) - set(other)), sorted(set(other) - set(one))
    if only_one or only_other:
        yield f"classes: {_list(only_one)} only {of_one}, {_list(only_other)} only {of_other}"
    else:
        yield f"order of the classes: {_list(one)} {of_one}, {_list(other)} {of_other}"


def _compare_split(split: str, one: DataIdentity, other: DataIdentity, of_one: str, of_other: str) -> Iterator[str]:
    mine, theirs = one.splits[split], other.splits[split]
    counts, others = (
        dict(zip(each.classes, each.splits[split].counts, strict=True)) for each in (one, other)
    )  # by name: the same number is another class if one is renamed
    changed = [
        f"{split} samples of class {escape(name)}: {count} {of_one}, {others[name]} {of_other}"
        for name, count in counts.items()
        if others.get(name, count) != count
    ]
    yield from changed[:MOST]
    if len(changed) > MOST:
        yield f"{split} samples of {len(changed) - MOST} more classes"
    if sum(mine.counts) != sum(theirs.counts):
        yield f"{split} samples: {sum(mine.counts):,} {of_one}, {sum(theirs.counts):,} {of_other}"
    if mine.files != theirs.files:
        yield (
            f"{split} files (digest of names and contents): {mine.files[:12]} {of_one}, {theirs.files[:12]} {of_other}"
        )


def _list(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return (", ".join(escape(name) for name in names[:MOST]) or "none") + more


def _format(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
