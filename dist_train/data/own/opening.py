"""Open the user's data set: call the class or function, check what it returns, and choose how it is read."""

import inspect
import logging
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from dist_train.data import memory
from dist_train.data.identity import DataIdentity, SplitIdentity, TableFormat
from dist_train.data.loader import Request, SampleLoader
from dist_train.data.own.attributes import read_classes, read_fingerprint
from dist_train.data.own.augmenting import AugmentedItems, Augmenter
from dist_train.data.own.items import Collate, OwnItems
from dist_train.data.own.rows import open_rows
from dist_train.data.own.sources import CollatedItems, ResidentTensors
from dist_train.data.own.stacking import compute_digest, count_bytes, describe_samples, take_rows
from dist_train.data.samples import PIECE, Dataset, OpenSplit, Samples, Shape, SplitName
from dist_train.data.selection import choose_samples, limit_samples, space_evenly
from dist_train.distributed.world import World
from dist_train.errors import ConfigError, DataError
from dist_train.nest import Nest, list_tensors, map_tensors
from dist_train.own_code.load import call, check_call, load, read_parameters, shown_as_own
from dist_train.settings.schema import OwnAugment, OwnData, RowData
from dist_train.system.escape import escape

Source = CollatedItems | ResidentTensors
Loader = Literal["in_memory", "workers"]
SAMPLED = 8
"""Samples of a split that are read at the start, evenly spaced, to notice when they change."""
_LONGEST = 10**12
"""Samples of a split: memory and time for their order grow with the root of their number."""
NAMES: tuple[SplitName, ...] = ("train", "validation", "test")

_log = logging.getLogger("dist_train.data")


def open_dataset(
    config: OwnData | RowData,
    seed: int,
    world: World,
    stored: DataIdentity | None = None,
    ignored_label: int | None = None,
) -> Dataset:
    """Open all splits of the user's data set, or of rows of numbers.

    Args:
        stored: of the run that is resumed.
        ignored_label: a label that is no class and may be there.

    Raises:
        ConfigError, DataError: it is no data set that can be trained on.
        OwnCodeError: the user's code fails.
    """
    wanted = NAMES if config.validation == "split" else ("train", "test")
    found, table = _find(config, wanted, seed, stored)
    classes = read_classes(found["train"])
    for split, dataset in found.items():
        if (others := read_classes(dataset)) and classes and others != classes:
            raise DataError(
                f"data.name {config.name}: its split {split} has the classes {_list_names(others)}, and train has "
                f"{_list_names(classes)}; a label must mean the same in all splits"
            )
    opener = _Opener(config, seed, world, classes, table, ignored_label)
    sources = {split: opener.open(split, dataset) for split, dataset in found.items()}
    chosen, held_out = choose_samples(len(sources["train"]), config, seed)
    validation = None if held_out is None else Samples("validation", held_out, sources["train"])
    if "validation" in sources:
        validation = Samples("validation", None, sources["validation"])
    test = sources.get("test")
    if validation is None and test is None:
        raise DataError(
            f"data.name {config.name}: it has no split test, and so nothing to evaluate; add one, or hold out a "
            "fraction of train (data.validation=0.1)"
        )
    return Dataset(
        **opener.describe(sources),
        train=Samples("train", chosen, opener.augment(sources["train"])),
        validation=validation,
        test=None if test is None else Samples("test", limit_samples(len(test), config.limit_test, config), test),
    )


def open_split(
    config: OwnData | RowData,
    seed: int,
    world: World,
    split: SplitName,
    stored: DataIdentity,
    ignored_label: int | None = None,
) -> OpenSplit:
    """Open one split for an evaluation of a run that trained on data as `stored`; raises as `open_dataset`."""
    is_part_of_train = split == "validation" and config.validation != "split" and config.validation > 0
    if split not in stored.splits and not is_part_of_train:
        raise DataError(f"--split {split}: this run has none; it has {', '.join(sorted(stored.splits))}")
    name: SplitName = "train" if is_part_of_train else split
    found, table = _find(config, (name,), seed, stored)
    if name not in found:
        raise DataError(f"--split {split}: data.{split} is 0, and so there is none")
    opener = _Opener(config, seed, world, read_classes(found[name]) or stored.classes, table, ignored_label)
    source = opener.open(name, found[name])
    if name == "train":
        chosen, held_out = choose_samples(len(source), config, seed)
        samples = Samples(split, chosen if split == "train" else held_out, source)
    else:
        limit = config.limit_test if split == "test" else None
        samples = Samples(split, limit_samples(len(source), limit, config), source)
    return OpenSplit(**opener.describe({name: source}), samples=samples)


def _list_names(names: tuple[str, ...]) -> str:
    return escape(", ".join(names), 200)


def _find(
    config: OwnData | RowData, wanted: tuple[SplitName, ...], seed: int, stored: DataIdentity | None
) -> tuple[dict[SplitName, Any], TableFormat | None]:
    """Return the data set of each split, and the format of rows."""
    if isinstance(config, OwnData):
        return _call(config, wanted), None
    splits, table = open_rows(config, seed, stored.table if stored else None)
    return {split: splits[split] for split in wanted if split in splits}, table


def _call(config: OwnData, wanted: tuple[SplitName, ...]) -> dict[SplitName, Any]:
    """Call the user's class for each split, or the function that returns all of them."""
    key, first = f"data.name {config.name}", wanted[0]
    parameters = read_parameters(load(config.name, "data.name"))
    made = call(config.name, "data.name", config.args, given={"split": first})
    if isinstance(made, Mapping) and not hasattr(made, "__getitems__"):
        splits = {split: made[split] for split in wanted if split in made}
        if missing := [split for split in wanted if split not in splits and split != "test"]:
            raise DataError(
                f"{key}: it returns splits named {', '.join(map(str, made))}, and {missing[0]} is missing"
                + ("; set data.validation to a fraction of train" if missing[0] == "validation" else "")
            )
        return splits
    if parameters and "split" not in parameters.keywords and not parameters.takes_any_name:
        raise ConfigError(
            f'{key}: it takes no argument `split`, so that train and test would be the same. Let it take split="train" '
            'and "test", or name a function that returns a dict of them'
        )
    others = {split: call(config.name, "data.name", config.args, given={"split": split}) for split in wanted[1:]}
    return {first: made, **others}


@dataclass
class _Opener:
    """Checks the splits of a data set, and opens each of them."""

    config: OwnData | RowData
    seed: int
    world: World
    classes: tuple[str, ...]
    table: TableFormat | None
    ignored_label: int | None

    def __post_init__(self) -> None:
        name = self.config.collate
        function = load(name, "data.collate") if name else None
        if name and not callable(function):
            raise ConfigError(f"data.collate {name}: is of the type {type(function).__name__}, and no function")
        if name:
            check_call(function, f"data.collate {name}", "items")
        self._collate = Collate(function, name or "", self.seed, len(self.classes), self.ignored_label)

    def open(self, split: SplitName, dataset: Any) -> Source:
        about = f"data.name {self.config.name}, split {split}"
        check_dataset(dataset, about)
        tensors = None if self.config.collate or self.config.loader == "workers" else _find_tensors(dataset)
        if tensors is not None:
            return self._hold(tensors, dataset)
        items = OwnItems(
            dataset, self.config.name, split, self.seed, self.world.rank, is_collated=self.config.collate is not None
        )
        source = CollatedItems(items, self._collate, about, dataset, self.world.rank)
        return self._hold(self._read_all(split, source), dataset) if self.config.loader == "in_memory" else source

    def augment(self, source: Source) -> Source:
        """Let the user's code change samples of the training split whenever they are read."""
        augment, rank = self.config.augment, self.world.rank
        if not isinstance(augment, OwnAugment):  # nothing, or noise that is added on the device
            return source
        items = source.items if isinstance(source, CollatedItems) else source
        changed = AugmentedItems(items, Augmenter(augment, self.seed, rank))
        augmented = CollatedItems(changed, self._collate, f"data.augment {augment.name}", source.dataset, rank)
        augmented.make_example(1)  # what is wrong with the code is seen before the run begins
        return augmented

    def _read_all(self, split: SplitName, source: CollatedItems) -> Nest:
        """Read each sample once, as in the first epoch; raises DataError if they don't fit."""
        count, first = len(source), source.make_example(1)
        memory.check_memory(count * source.sample_bytes, f"data.loader=in_memory: {count:,} samples of {source.about}")
        if any(len(tensor) != 1 for tensor in list_tensors(first)):
            raise DataError(f"data.loader=in_memory: {source.about}: not every tensor has a first dimension of samples")
        held = map_tensors(lambda tensor: tensor.new_empty(count, *tensor.shape[1:]), first)
        requests = (Request(part, 0, [len(part)]) for part in torch.split(torch.arange(count), PIECE))
        start = 0
        with SampleLoader(Samples(split, None, source), requests, self.config.workers, pin=False) as loader:
            for (piece,) in loader:
                for target, part in zip(list_tensors(held), list_tensors(piece), strict=True):
                    if part.shape[1:] != target.shape[1:]:
                        raise DataError(
                            f"data.loader=in_memory: {source.about}: samples have the shapes {list(part.shape[1:])} "
                            f"and {list(target.shape[1:])}, and all must have one; set data.loader=workers"
                        )
                    target[start : start + len(part)] = part
                start += len(list_tensors(piece)[0])
        return held

    def _hold(self, tensors: Nest, dataset: Any) -> ResidentTensors:
        """Keep tensors in memory, of the GPU if they take less than a quarter of what is free there."""
        device = self.world.device
        if device.type != "cpu" and count_bytes(tensors) < memory.device_bytes(device) // 4:
            tensors = map_tensors(lambda tensor: tensor.to(device), tensors)
        return ResidentTensors(tensors, dataset)

    def _identify(self, split: SplitName, source: Source) -> str:
        """Return what tells the data of a split from others; "" if its samples are never the same twice."""
        if fingerprint := read_fingerprint(source.dataset):
            return fingerprint
        if compute_digest(source.make_example(1)) != compute_digest(source.take(torch.tensor([0]), 0, [1])[0]):
            _log.warning(
                "data.name %s, split %s: item 0 differs when it is read twice with the same seed, so that this run "
                "can't be repeated exactly. Draw from random, numpy.random or torch, not from a generator of your own",
                self.config.name, split,
            )  # fmt: skip
            return ""
        some = space_evenly(len(source), SAMPLED)
        numbers = torch.arange(len(source)) if some is None else some
        return compute_digest(source.take(numbers, 0, [len(numbers)]))

    def describe(self, sources: Mapping[SplitName, Source]) -> dict[str, Any]:
        """Return the fields of a `DataFormat`."""
        is_resident = all(isinstance(source, ResidentTensors) for source in sources.values())
        loader: Loader = "in_memory" if is_resident else "workers"
        example = next(iter(sources.values()))
        first = example.make_example(1)
        shape = _find_shape(first[0])
        splits = {
            str(split): SplitIdentity((), self._identify(split, source), len(source))
            for split, source in sources.items()
        }
        return {
            "shape": shape,
            "classes": self.classes,
            "normalize": None,
            "loader": loader,
            "identity": DataIdentity(shape, self.classes, None, splits, describe_samples(first), self.table),
            "make_example": example.make_example,
        }


def check_dataset(dataset: Any, about: str) -> None:
    """Check that an object is a map-style data set with samples; raises DataError."""
    kind = type(dataset)
    if isinstance(dataset, IterableDataset) or (hasattr(kind, "__iter__") and not hasattr(kind, "__getitem__")):
        raise DataError(
            f"{about}: {kind.__name__} yields samples in its own order, so that no step can be repeated. Give "
            "a data set with __len__ and __getitem__: for files of many samples, an index of (file, place), built "
            "once, from which __getitem__ reads one sample"
        )
    if isinstance(dataset, DataLoader):
        raise DataError(f"{about}: is a DataLoader; return the data set in it: samples are loaded for you")
    for method in ("__getitem__", "__len__"):
        # that of torch only says that there is none
        if getattr(kind, method, None) in (None, getattr(torch.utils.data.Dataset, method, None)):
            raise DataError(
                f"{about}: {kind.__name__}{_locate(kind)} has no {method}; a data set needs __len__ and __getitem__"
            )
    with shown_as_own(f"{about}: __len__"):
        length = kind.__len__(dataset)
    try:
        count = operator.index(length)
    except TypeError:
        count = -1
    if not 1 <= count <= _LONGEST:
        where = f"{kind.__name__}{_locate(kind)}"
        raise DataError(
            f"{about}: __len__ of {where} returns {length!r}; it must be a whole number above 0, at most {_LONGEST:,}"
        )


def _locate(kind: type) -> str:
    """Return the place of a class, such as ` (sets.py, line 12)`, or nothing."""
    try:
        return f" ({inspect.getsourcefile(kind)}, line {inspect.getsourcelines(kind)[1]})"
    except (TypeError, OSError):
        return ""


def _find_tensors(dataset: Any) -> tuple[Tensor, Tensor] | None:
    """Return inputs and targets of a TensorDataset with two tensors, or of a part of one."""
    if isinstance(dataset, Subset) and type(dataset) is Subset:
        whole = _find_tensors(dataset.dataset)
        chosen = torch.as_tensor(dataset.indices)
        return whole and (take_rows(whole[0], chosen), take_rows(whole[1], chosen))
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        return dataset.tensors[0], dataset.tensors[1]
    return None


def _find_shape(inputs: Nest) -> Shape | None:
    """Return channels, height and width of inputs that are images: a tensor of four dimensions."""
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        return None
    _, channels, height, width = inputs.shape
    return channels, height, width
