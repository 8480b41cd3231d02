"""Identify the data of a run: class names, counts, mean and std, and a digest of the files."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from dist_train.settings.schema import Normalize
from dist_train.system.escape import escape

_T = TypeVar("_T")

MOST = 10
"""Differences of one kind that are listed."""


@dataclass(frozen=True)
class SplitIdentity:
    """The files of one split, or its samples, before any setting chooses some."""

    counts: tuple[int, ...]
    """Samples of each class; () for the user's data set."""
    files: str
    """SHA-256 of the names and contents of the files, wherever they are. For the user's data set: its fingerprint, or
    the SHA-256 of some samples; "" if neither is always the same."""
    length: int
    """Number of samples."""


@dataclass(frozen=True)
class TableFormat:
    """The columns of a table, and how its inputs are scaled: (value - shift) / scale."""

    columns: tuple[str, ...]
    """Names of the inputs, in the order in which the network gets them."""
    target: str
    """Name of the column that is predicted."""
    shift: tuple[float, ...]
    """One number for each input."""
    scale: tuple[float, ...]
    """One number above 0 for each input."""

    def scale_inputs(self, inputs: Tensor) -> Tensor:
        """Return inputs as the network gets them: float64 [N, columns] -> float of torch's default dtype."""
        shift, scale = (torch.tensor(numbers, dtype=torch.float64) for numbers in (self.shift, self.scale))
        return ((inputs - shift) / scale).to(torch.get_default_dtype())

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, found: Any) -> "TableFormat":
        """Return what `to_dict` wrote; raises ValueError, TypeError or KeyError for anything else."""
        shift, scale = (tuple(_check(float, number) for number in found[key]) for key in ("shift", "scale"))
        columns = tuple(_check(str, name) for name in found["columns"])
        if not len(columns) == len(shift) == len(scale) or not all(map(math.isfinite, (*shift, *scale))):
            raise ValueError("no description of a table: not a number for each column")
        return cls(columns, _check(str, found["target"]), shift, scale)


_SIZES = re.compile(r"\[\d+(?:, \d+)*\]")
"""The shape of a tensor in a structure; one without dimensions has no size."""


@dataclass(frozen=True)
class DataIdentity:
    """Data as a checkpoint describes them, and as the hosts of a run compare them."""

    shape: tuple[int, int, int] | None
    """Channels, height and width of an image; None if the inputs are no images of one shape."""
    classes: tuple[str, ...]
    normalize: Normalize | None
    splits: dict[str, SplitIdentity]
    structure: str = ""
    """Types and shapes of a sample of the user's data set, such as `(float32 [3, 8], int64 [])`."""
    table: TableFormat | None = None
    """The format of rows of numbers; None for other data."""

    def make_inputs(self) -> Tensor | None:
        """Return inputs of one sample, all zero; None for the user's data, which may be of any kind."""
        size = self.shape if self.normalize and self.shape else (len(self.table.columns),) if self.table else None
        return None if size is None else torch.zeros(1, *size)

    def restrict(self, splits: Iterable[str]) -> "DataIdentity":
        """Return the identity with these splits only."""
        return replace(self, splits={name: split for name, split in self.splits.items() if name in splits})

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only."""
        return {
            "shape": self.shape and list(self.shape),
            "classes": list(self.classes),
            "mean": self.normalize and list(self.normalize.mean),
            "std": self.normalize and list(self.normalize.std),
            "splits": {
                name: {"counts": list(split.counts), "files": split.files, "length": split.length}
                for name, split in self.splits.items()
            },
            "structure": self.structure,
            "table": self.table and self.table.to_dict(),
        }

    def list_facts(self) -> dict[str, Any]:
        """Return values that must be equal on all ranks, by name: each machine may have its own copy of the data."""
        facts: dict[str, Any] = {f"class {number}": name for number, name in enumerate(self.classes)}
        for name, split in self.splits.items():
            counts = zip(self.classes, split.counts, strict=False)
            facts |= {f"{name} samples of class {label}": count for label, count in counts}
            facts |= {f"{name} samples": split.length, f"SHA-256 of the {name} files": split.files}
        normalize = self.normalize and self.normalize.model_dump()
        table = self.table and self.table.to_dict()
        return {**facts, "shape": self.shape, "normalize": normalize, "structure": self.structure, "table": table}

    @classmethod
    def from_dict(cls, found: Any) -> "DataIdentity":
        """Return what `to_dict` wrote; raises ValueError for anything else."""
        try:
            identity = cls(
                _read_shape(found["shape"]),
                tuple(_check(str, name) for name in found["classes"]),
                None if found["mean"] is None else Normalize(mean=tuple(found["mean"]), std=tuple(found["std"])),
                {_check(str, name): _read_split(split) for name, split in found["splits"].items()},
                _check(str, found.get("structure", "")),
                None if found.get("table") is None else TableFormat.from_dict(found["table"]),
            )
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"no description of data: {error!r}") from error
        if any(split.counts and len(split.counts) != len(identity.classes) for split in identity.splits.values()):
            raise ValueError("no description of data: a split has counts of other classes")
        if identity.normalize and len(identity.normalize.mean) != len(identity.normalize.std):
            raise ValueError("no description of data: mean and std of another length")
        return identity


def _read_shape(found: Any) -> tuple[int, int, int] | None:
    if found is None:
        return None
    channels, height, width = (_check(int, number) for number in found)
    return channels, height, width


def _read_split(found: Any) -> SplitIdentity:
    counts = tuple(_check(int, count) for count in found["counts"])
    return SplitIdentity(counts, _check(str, found["files"]), _check(int, found.get("length", sum(counts))))


def _check(kind: type[_T], value: Any) -> _T:
    """Return a value of exactly this type; raises ValueError for another, and for a negative integer."""
    if type(value) is not kind or (kind is int and value < 0):  # type: ignore[operator]
        raise ValueError(f"{value!r:.40} is no {kind.__name__}")
    return value


def compare(one: DataIdentity, other: DataIdentity, of_one: str, of_other: str) -> list[str]:
    """List the differences of the data, each with both values; mean and std are not compared.

    Args:
        of_one: what messages call the values of `one`, e.g. "in the checkpoint".
        of_other: what they call those of `other`, e.g. "now".
    """
    found = [*_compare_classes(one.classes, other.classes, of_one, of_other)]
    if one.table and other.table and (one.table.columns, one.table.target) != (other.table.columns, other.table.target):
        found.append(f"columns: {_name_columns(one.table)} {of_one}, {_name_columns(other.table)} {of_other}")
    elif _describe_structure(one, other) != _describe_structure(other, one):
        found.append(f"samples: {escape(one.structure)} {of_one}, {escape(other.structure)} {of_other}")
    elif one.shape != other.shape and not one.structure:
        found.append(f"images: {_format(one.shape)} {of_one}, {_format(other.shape)} {of_other}")
    for split in sorted({*one.splits, *other.splits}):
        mine, theirs = one.splits.get(split), other.splits.get(split)
        if mine is None or theirs is None:
            there, missing = (of_other, of_one) if mine is None else (of_one, of_other)
            found.append(f"split {split}: {there}, and not {missing}")
        elif mine != theirs:
            found += _compare_split(split, one, other, of_one, of_other)
    return found


def _describe_structure(one: DataIdentity, other: DataIdentity) -> str:
    """Return the structure of `one`, without sizes where the two are not of the same split.

    It is that of the first sample of a split, and a sequence or a picture of another split may have another size.
    """
    if "train" in one.splits and "train" in other.splits:
        return one.structure
    return _SIZES.sub(lambda found: f"[{found[0].count(',') + 1} sizes]", one.structure)


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
        dict(zip(each.classes, each.splits[split].counts, strict=False)) for each in (one, other)
    )  # by name: the same number is another class if one is renamed
    changed = [
        f"{split} samples of class {escape(name)}: {count} {of_one}, {others[name]} {of_other}"
        for name, count in counts.items()
        if others.get(name, count) != count
    ]
    yield from changed[:MOST]
    if len(changed) > MOST:
        yield f"{split} samples of {len(changed) - MOST} more classes"
    if mine.length != theirs.length:
        yield f"{split} samples: {mine.length:,} {of_one}, {theirs.length:,} {of_other}"
    if mine.files != theirs.files and not (one.structure and "" in (mine.files, theirs.files)):
        what = "fingerprint, or digest of some samples" if one.structure else "digest of names and contents"
        files = "data" if one.structure else "files"
        yield f"{split} {files} ({what}): {mine.files[:12]} {of_one}, {theirs.files[:12]} {of_other}"


def _name_columns(table: TableFormat) -> str:
    return f"{_list(table.columns)} -> {escape(table.target)}"


def _list(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return (", ".join(escape(name) for name in names[:MOST]) or "none") + more


def _format(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape)) if shape else "of no one shape"
