"""Draw samples as the network gets them: of settings, or of a run with its network's predictions."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_train.data import DataFormat, Dataset, Samples, TrainBatches, eval_batches, open_dataset
from dist_train.data.samples import SplitName
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.monitoring.input_pictures import to_pictures
from dist_train.nest import Nest, map_tensors
from dist_train.results.grid import draw_grid
from dist_train.results.points import MOST, draw_points, to_points
from dist_train.results.predict.pictures import caption
from dist_train.results.predictions import Predictions
from dist_train.settings.schema import Config
from dist_train.system.plural import format_count
from dist_train.tasks.answers import Answer, AnswerReader
from dist_train.tasks.output import describe, select

PICTURES = 24
"""Pictures that are drawn by default; for points the default is MOST."""


@dataclass(frozen=True)
class _Sample:
    """A sample: batches of one."""

    index: int
    inputs: Nest
    targets: Nest
    output: Nest = None
    """None without a network."""
    answer: Answer | None = None

    def copy(self) -> "_Sample":
        """Return one that does not keep its batch in memory."""
        inputs, targets, output = map_tensors(torch.clone, (self.inputs, self.targets, self.output))
        return replace(self, inputs=inputs, targets=targets, output=output)


def show_data(config: Config, split: SplitName, augmented: bool, limit: int | None, path: Path) -> str:
    """Draw samples of a split without a network; return what was drawn.

    Args:
        augmented: draw the first steps of a training.
        limit: samples, at most; None: PICTURES, or MOST points.

    Raises:
        UserError: the data can't be read or have no such split, the samples can't be drawn, or the picture not be
            written.
    """
    world = World()
    dataset = open_dataset(config.data, config.run.seed, world)
    samples: Samples | None = getattr(dataset, split)
    if samples is None:
        raise ConfigError(f"--split {split}: the data have none")
    most = min(limit or _count(dataset), len(samples))
    if augmented:
        found = list(_read_augmented(config, dataset, most, world))
    else:
        found = list(_read(config, dataset, _spread(samples, most), world))
    _draw(found, dataset, config, path)
    return _describe_count(found, samples)


def show_run(predictions: Predictions, limit: int | None, path: Path) -> str:
    """Draw samples with truth and prediction; return what was drawn. Raises UserError as `show_data`."""
    opened = predictions.opened
    samples = _spread(opened.samples, limit or _count(opened.dataset))
    found = list(_predict(replace(predictions, opened=replace(opened, samples=samples))))
    _draw(found, opened.dataset, opened.config, path)
    return _describe_count(found, opened.samples)


def show_mistakes(predictions: Predictions, limit: int | None, path: Path) -> str:
    """Draw the mistakes, the most confident first; return what was drawn. Raises UserError as `show_data`."""
    opened, mistakes, order = predictions.opened, 0, count()
    worst: list[tuple[float, int, _Sample]] = []
    for sample in _predict(predictions):
        assert sample.answer is not None  # noqa: S101
        if not sample.answer.guesses:
            raise ConfigError(f"--wrong: the network predicts no classes (task is {opened.config.task})")
        if sample.answer.is_wrong:
            mistakes += 1
            heapq.heappush(worst, (sample.answer.guesses[0].probability, -next(order), sample.copy()))
            if len(worst) > (limit or PICTURES):
                heapq.heappop(worst)
    of = f"{format_count(len(opened.samples), 'sample')} of the {opened.samples.split} split"
    if not worst:
        return f"there is no mistake in {of}"
    found = [sample for _, _, sample in sorted(worst, reverse=True)]
    _draw(found, opened.dataset, opened.config, path)
    return f"the worst {len(found)} of {format_count(mistakes, 'mistake')} in {of}"


def _describe_count(found: Sequence[_Sample], samples: Samples) -> str:
    return f"{len(found):,} of {format_count(len(samples), 'sample')} of the {samples.split} split"


def _count(dataset: DataFormat) -> int:
    return MOST if to_pictures(dataset.make_example(1)[0], dataset.normalize) is None else PICTURES


def _spread(samples: Samples, limit: int) -> Samples:
    """Return so many samples, spread evenly: files are often sorted by class."""
    if limit >= len(samples):
        return samples
    return replace(samples, chosen=samples.indices[torch.arange(limit) * len(samples) // limit])


def _read(config: Config, dataset: DataFormat, samples: Samples, world: World) -> Iterator[_Sample]:
    """Yield samples as an evaluation gets them."""
    indices = iter(samples.indices.tolist())
    for batch in eval_batches(samples, dataset, config.data, world):
        yield from _cut(indices, batch.inputs, batch.targets, batch.num_samples)


def _read_augmented(config: Config, dataset: Dataset, limit: int, world: World) -> Iterator[_Sample]:
    """Yield samples of the first steps of a training."""
    steps = -(-limit // config.data.global_batch)
    with TrainBatches(dataset, config.data, config.run.seed, world, start_step=0, stop_step=steps) as batches:
        for batch in batches:
            indices = iter(batch.samples.tolist())
            for each in (each for shard in batch.shards for each in shard.passes):
                yield from _cut(indices, each.inputs, each.targets, min(limit, each.num_samples))
                limit -= min(limit, each.num_samples)


def _predict(predictions: Predictions) -> Iterator[_Sample]:
    opened = predictions.opened
    reader = AnswerReader(opened.config.task, opened.dataset.classes, opened.config.loss.output)
    for batch in predictions.batches():
        output = select(batch.output, opened.config.loss.output)
        answers = iter(reader.read(batch.output, batch.targets, reader.few))
        for sample in _cut(iter(batch.indices.tolist()), batch.inputs, batch.targets, len(batch.indices), output):
            yield replace(sample, answer=next(answers))


def _cut(
    indices: Iterator[int], inputs: Nest, targets: Nest, num_samples: int, output: Nest = None
) -> Iterator[_Sample]:
    for number in range(num_samples):

        def take(tensor: Tensor, number: int = number) -> Tensor:
            return tensor[number : number + 1] if tensor.dim() else tensor

        yield _Sample(next(indices), *(map_tensors(take, nest) for nest in (inputs, targets, output)))


def _draw(found: Sequence[_Sample], dataset: DataFormat, config: Config, path: Path) -> None:
    """Write the picture; raises ConfigError where the samples are neither pictures nor points."""
    pictures = [to_pictures(sample.inputs, dataset.normalize) for sample in found]
    if all(pictures):
        answers = [sample.answer or Answer(_name_target(sample.targets, dataset.classes)) for sample in found]
        captions = [caption(answer, f"#{sample.index}") for sample, answer in zip(found, answers, strict=True)]
        wrong = [bool(answer.is_wrong) for answer in answers]
        draw_grid([each[0] for each in pictures if each], captions, path, wrong)
        return
    first = found[0]
    points = None
    if isinstance(first.inputs, Tensor) and isinstance(first.targets, Tensor):
        nests = zip(*((each.inputs, each.targets, each.output) for each in found), strict=True)
        inputs, targets, output = (None if nest[0] is None else torch.cat(nest) for nest in nests)
        points = to_points(inputs, targets, output, dataset.identity.table)
    if points is None or points.inputs is None:
        raise ConfigError(
            f"data.name {config.data.name}: an input is {describe(first.inputs)} and its target "
            f"{describe(first.targets)}, which can't be drawn; pictures can be, and inputs of a few numbers with a "
            "target of one"
        )
    draw_points(points, path)


def _name_target(targets: Nest, classes: Sequence[str]) -> Any:
    """Return the class of a target, or its number; None where it is neither."""
    if not isinstance(targets, Tensor) or targets.numel() != 1:
        return None
    value = targets.item()
    return classes[value] if type(value) is int and 0 <= value < len(classes) else value
