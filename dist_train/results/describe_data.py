"""`dist-train data`: count, shapes, balance, mean and std, duplicates and unreadable samples of each split.

Samples are those of the settings, before augmentation and normalisation, each read once. A sample is a duplicate if the
inputs of an earlier one are the same, bit for bit, whatever its target.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dist_train.data import Samples, open_dataset
from dist_train.data.datasets.image_folder import ImageFiles
from dist_train.data.own.stacking import compute_digest
from dist_train.data.registry import open_pictures
from dist_train.data.samples import LabelledImages, SplitName
from dist_train.distributed.world import World
from dist_train.errors import DataError, OwnCodeError
from dist_train.interface.process import restored_process
from dist_train.nest import Nest, list_tensors, split_nest
from dist_train.results.describe_tensors import TensorSummary
from dist_train.settings.schema import Config, ImageData, OwnData
from dist_train.settings.tasks import find_ignored_label
from dist_train.system.cpu import count_cores
from dist_train.system.escape import escape
from dist_train.system.plural import format_count

PIECE = 256
"""Samples that are read at a time."""
MOST_CLASSES = 100
"""Classes that are listed in the text; of more, the smallest and the largest."""
MOST_NAMED = 10
"""Samples that are named for each finding."""


class _Read(NamedTuple):
    """Samples that were read together."""

    numbers: list[int]
    """Numbers of the samples in the split of the files."""
    inputs: Nest
    targets: Nest


class _Failure(NamedTuple):
    """A sample that can't be read."""

    number: int
    message: str


@dataclass
class SplitSummary:
    """Counts and statistics of one split."""

    name: SplitName
    count: int = 0
    """Samples that were read."""
    classes: Counter[int] = field(default_factory=Counter)
    """Samples of each label, if targets are labels."""
    inputs: dict[str, TensorSummary] = field(default_factory=dict)
    """Summaries by the key or number of the tensor in the inputs; the key is "" if they are one tensor."""
    targets: dict[str, TensorSummary] = field(default_factory=dict)
    """Summaries of targets, as in `inputs`; {} if targets are labels."""
    unreadable: list[str] = field(default_factory=list)
    """A message for each sample that can't be read."""
    first: dict[str, int] = field(default_factory=dict)
    """The number of the first sample with this digest of its inputs."""
    repeated: list[tuple[str, str]] = field(default_factory=list)
    """Names of samples with the inputs of an earlier one, and of that."""


@dataclass
class DataSummary:
    """The result of `dist-train data`."""

    name: str
    class_names: tuple[str, ...]
    splits: list[SplitSummary]
    shared: dict[tuple[SplitName, SplitName], int]
    """How many different inputs two splits have in common, by pairs of splits."""
    contradictory: int
    """Inputs that occur with several labels."""

    @property
    def is_readable(self) -> bool:
        """Whether each sample could be read."""
        return not any(split.unreadable for split in self.splits)

    def name_class(self, label: int) -> str:
        """Return the name of a class, or its number."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only."""
        return {
            "data": self.name,
            "classes": list(self.class_names),
            "splits": {split.name: self._describe(split) for split in self.splits},
            "shared": [{"splits": list(pair), "count": count} for pair, count in self.shared.items()],
            "contradictory_labels": self.contradictory,
        }

    def _describe(self, split: SplitSummary) -> dict[str, Any]:
        labels = sorted(split.classes)
        return {
            "count": split.count,
            "classes": {self.name_class(label): split.classes[label] for label in labels},
            "inputs": {place: summary.to_dict() for place, summary in split.inputs.items()},
            "targets": {place: summary.to_dict() for place, summary in split.targets.items()},
            "duplicates": len(split.repeated),
            "duplicate_samples": [list(pair) for pair in split.repeated[:MOST_NAMED]],
            "unreadable": split.unreadable,
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{split.name} {split.count:,}" for split in self.splits)
        classes = f", {len(self.class_names):,} classes" if self.class_names else ""
        lines = [f"{escape(self.name)}: {counts} samples{classes}"]
        for kind in ("inputs", "targets"):
            for split in self.splits:
                for place, summary in getattr(split, kind).items():
                    what = f"{kind[:-1]}{f' {escape(place)}' if place else ''}"
                    lines.append(f"{split.name + ':':<12}{what} {summary.format_type()}")
                    lines += [f"{'':<12}{line}" for line in summary.format_moments().splitlines()]
        return "\n".join([*lines, *self._format_classes(), *self._format_duplicates(), *self._format_unreadable()])

    def _format_classes(self) -> Iterator[str]:
        labels = sorted({label for split in self.splits for label in split.classes})
        if len(labels) > MOST_CLASSES:
            for split in self.splits:
                (few, fewest), (many, most) = split.classes.most_common()[-1], split.classes.most_common()[0]
                names = f"{fewest:,} of {escape(self.name_class(few))} to {most:,} of {escape(self.name_class(many))}"
                yield f"{split.name + ':':<12}samples of a class: {names}"
        elif labels:
            listed = {label: escape(self.name_class(label), 40) for label in labels}
            width = max(5, *map(len, listed.values()))
            yield "  ".join([f"{'class':<{width}}", *(f"{split.name:>10}" for split in self.splits)])
            for label, name in listed.items():
                counts = (f"{split.classes[label]:>10,}" for split in self.splits)
                yield "  ".join([f"{name:<{width}}", *counts])

    def _format_duplicates(self) -> Iterator[str]:
        within = [f"within {split.name} {len(split.repeated):,}" for split in self.splits]
        between = [f"in {first} and {second} {count:,}" for (first, second), count in self.shared.items()]
        yield f"duplicates: {', '.join([*within, *between])}"
        for split in self.splits:
            for name, earlier in split.repeated[:MOST_NAMED]:
                yield f"  {split.name}: {escape(name)} is {escape(earlier)}"
            if len(split.repeated) > MOST_NAMED:
                yield f"  {split.name}: and {len(split.repeated) - MOST_NAMED:,} more"
        if self.contradictory:
            yield f"contradictory: {format_count(self.contradictory, 'input')} with several labels"

    def _format_unreadable(self) -> Iterator[str]:
        for split in self.splits:
            if split.unreadable:
                yield f"{split.name}: {format_count(len(split.unreadable), 'sample')} can't be read"
                yield from (f"  {escape(message, 400)}" for message in split.unreadable)


def describe_data(config: Config) -> DataSummary:
    """Read each sample of each split once, and summarize them.

    Raises:
        UserError: there are no such data. A sample that can't be read is in the summary.
    """
    with restored_process():
        classes, splits = _open(config)
        return _summarize(config, classes, splits)


def _summarize(config: Config, classes: tuple[str, ...], splits: dict[SplitName, Samples]) -> DataSummary:
    summaries, labels = [], dict[str, set[int]]()
    for samples in splits.values():
        summary = SplitSummary(samples.split)
        for found in _read_all(samples):
            if isinstance(found, _Failure):
                summary.unreadable.append(found.message)
            else:
                _add(summary, found, samples, labels, has_labels=config.task != "regression")
        summaries.append(summary)
    pairs = [(one, other) for place, one in enumerate(summaries) for other in summaries[place + 1 :]]
    shared = {(one.name, other.name): _count_shared(one, other) for one, other in pairs}
    contradictory = sum(len(each) > 1 for each in labels.values())
    return DataSummary(config.data.name, classes, summaries, shared, contradictory)


def _open(config: Config) -> tuple[tuple[str, ...], dict[SplitName, Samples]]:
    if isinstance(config.data, ImageData):
        return open_pictures(config.data, config.run.seed, World())
    data = config.data.model_copy(update={"augment": None}) if isinstance(config.data, OwnData) else config.data
    dataset = open_dataset(data, config.run.seed, World(), ignored_label=find_ignored_label(config))
    splits = (dataset.train, dataset.validation, dataset.test)
    return dataset.classes, {samples.split: samples for samples in splits if samples}


def _add(summary: SplitSummary, read: _Read, samples: Samples, labels: dict[str, set[int]], has_labels: bool) -> None:
    """Add samples to the summary of their split, and their labels to those of all samples by digest."""
    summary.count += len(read.numbers)
    for place, tensor in _find_places(read.inputs):
        summary.inputs.setdefault(place, TensorSummary()).add(tensor)
    of_samples: list[int | None] = [None] * len(read.numbers)
    if has_labels and _is_label(read.targets):
        of_samples = read.targets.tolist()
        summary.classes.update(read.targets.tolist())
    else:
        for place, tensor in _find_places(read.targets):
            summary.targets.setdefault(place, TensorSummary()).add(tensor)
    for number, inputs, label in zip(read.numbers, _split(read.inputs), of_samples, strict=True):
        digest = compute_digest(inputs)
        if label is not None:
            labels.setdefault(digest, set()).add(label)
        earlier = summary.first.setdefault(digest, number)
        if earlier != number:
            summary.repeated.append((_name(samples, number), _name(samples, earlier)))


def _count_shared(one: SplitSummary, other: SplitSummary) -> int:
    return len(other.first.keys() & one.first.keys())


def _read_all(samples: Samples) -> Iterator[_Read | _Failure]:
    """Read all samples in order, those of one form together; the user's code is called as in the first epoch."""
    source = samples.source
    if isinstance(source, LabelledImages) and isinstance(source.images, ImageFiles):
        yield from _decode_all(source.images, source.labels, samples.indices)
        return
    for positions in torch.split(torch.arange(len(samples)), PIECE):
        try:
            yield from _read(samples, positions)
        except (DataError, OwnCodeError):
            yield from _read_one_by_one(samples, positions)


def _decode_all(files: ImageFiles, labels: Tensor, numbers: Tensor) -> Iterator[_Read | _Failure]:
    def decode(number: int) -> _Read | _Failure:
        try:
            pixels = torch.from_numpy(files.decode(files.paths[number]))
        except DataError as error:
            return _Failure(number, str(error))
        return _Read([number], pixels.unsqueeze(0), labels[number : number + 1])

    with ThreadPoolExecutor(count_cores()) as pool:
        for part in torch.split(numbers, PIECE):
            yield from pool.map(decode, part.tolist())


def _read(samples: Samples, positions: Tensor) -> Iterator[_Read]:
    numbers = samples.numbers(positions)
    passes = samples.read(positions, 0, [1] * len(positions))
    together = 1 if len(passes) > 1 else len(positions)
    for part, (inputs, targets) in zip(torch.split(numbers, together), passes, strict=True):
        yield _Read(part.tolist(), inputs, targets)


def _read_one_by_one(samples: Samples, positions: Tensor) -> Iterator[_Read | _Failure]:
    for position in torch.split(positions, 1):
        try:
            yield from _read(samples, position)
        except (DataError, OwnCodeError) as error:
            number = int(samples.numbers(position))
            lines = str(error).strip().splitlines()
            yield _Failure(number, f"item {number}: {lines[-1] if isinstance(error, OwnCodeError) else lines[0]}")


def _is_label(targets: Nest) -> bool:
    return (
        isinstance(targets, Tensor) and targets.dim() == 1 and not (targets.is_floating_point() or targets.is_complex())
    )


def _split(inputs: Nest) -> Iterable[Nest]:
    return split_nest(inputs, lambda tensor: torch.unbind(tensor, 0))


def _find_places(nest: Nest) -> list[tuple[str, Tensor]]:
    """Return the tensors of a nest by their keys or numbers."""
    if isinstance(nest, Tensor):
        return [("", nest)]
    if isinstance(nest, dict) and all(isinstance(value, Tensor) for value in nest.values()):
        return [(str(key), value) for key, value in nest.items()]
    return [(str(number), tensor) for number, tensor in enumerate(list_tensors(nest))]


def _name(samples: Samples, number: int) -> str:
    source = samples.source
    if isinstance(source, LabelledImages) and isinstance(source.images, ImageFiles):
        return source.images.paths[number]
    return f"sample {number}"
