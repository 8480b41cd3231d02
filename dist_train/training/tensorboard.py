"""Write what TensorBoard shows beside curves: settings, the network's graph, and pictures of evaluations."""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dist_train.data.batches import EvalBatch, eval_batch_size
from dist_train.data.samples import DataFormat, Samples
from dist_train.distributed.world import World
from dist_train.eval_line import format_number
from dist_train.monitoring.event_files import EventFiles
from dist_train.monitoring.event_records import Picture
from dist_train.monitoring.input_pictures import find_pictures, to_pictures
from dist_train.monitoring.pictures import SampleSheet, draw_confusion
from dist_train.nest import Nest, move_inputs
from dist_train.settings.schema import Config, flatten
from dist_train.system.escape import escape
from dist_train.tasks import Evaluation
from dist_train.tasks.answers import Answer, AnswerReader
from dist_train.tasks.output import select
from dist_train.training.graph import record_graph
from dist_train.training.state import TrainState

Observe = Callable[[EvalBatch, Nest], None]
"""Called with each batch of an evaluation on this rank and the network's output."""
_COUNT = 16
"""Samples of a split that are shown."""
_SHARE = 200
"""New pictures are drawn after this many times the time that the last ones took."""
_SECTIONS = {"data", "model", "task", "loss", "optim", "train"}
"""Settings that may change the result."""
_log = logging.getLogger(__name__)


class TensorBoard:
    """Writes settings, graph and pictures to event files, on rank 0.

    Samples are taken from the batches of an evaluation, so that none is computed twice.
    """

    def __init__(self, events: EventFiles, config: Config, dataset: DataFormat, world: World) -> None:
        self._events, self._config, self._dataset, self._world = events, config, dataset, world
        self._reader = AnswerReader(config.task, dataset.classes)
        self._batch_size = config.eval.batch_size or eval_batch_size(dataset, config.data, world.device)
        self._chosen: dict[int, list[int]] = {}
        """Positions of the samples in their batch, by the number of the batch."""
        self._kept: list[tuple[Tensor, ...]] = []
        """Picture, target and output of each sample."""
        self._due = 0.0
        """When pictures may be drawn again."""
        self._is_drawn = False
        """Whether the evaluation that runs gets pictures."""
        self._sheets: dict[str, SampleSheet] = {}
        """The sheet of each split."""

    def write_about(self, state: TrainState) -> None:
        """Write the settings of the run and the graph of its network."""
        try:
            inputs, _ = move_inputs(self._dataset.make_example(2), state.device, state.auto_settings.memory_format)
            with state.autocast():
                graph = record_graph(state.network, inputs)
        except Exception as error:  # of the user's code, or of torch, which can't copy every network
            graph = []
            _log.info("TensorBoard: no graph of the network: %s: %s", type(error).__name__, escape(error, 200))
        settings = flatten(self._config.model_dump(mode="json", include=_SECTIONS))
        self._events.write_about(self._config.run.name, settings, graph)

    def begin(self, samples: Samples, is_last: bool) -> Observe | None:
        """Begin an evaluation; return what is called with its batches, None if it gets no pictures.

        Args:
            is_last: whether the training is at its end; before, evaluations without a pause do not all get pictures.
        """
        self._is_drawn = is_last or time.perf_counter() >= self._due
        if not self._is_drawn:
            return None
        self._kept = []
        self._chosen = {}
        for number, place in _choose(len(samples), self._batch_size, self._world.size):
            self._chosen.setdefault(number, []).append(place)
        return self._observe

    def _observe(self, batch: EvalBatch, output: Nest) -> None:
        if places := self._chosen.get(batch.number):
            pictures, selected = find_pictures(batch.inputs), select(output, self._config.loss.output)
            if pictures is not None and _are_simple(batch.targets, selected):
                tensors = (pictures, batch.targets, selected)
                # Copies, which wait for no GPU.
                self._kept += [tuple(each[place : place + 1].clone() for each in tensors) for place in places]

    def write(self, step: int, evaluation: Evaluation) -> None:
        """Write the pictures of a finished evaluation, as far as it has some."""
        if not self._is_drawn:
            return
        started = time.perf_counter()
        pictures: dict[str, Picture] = {}
        if evaluation.confusion:
            pictures["confusion_matrix"] = draw_confusion(evaluation.confusion, evaluation.classes)
        if self._kept:
            inputs, targets, output = map(torch.cat, zip(*self._kept, strict=True))
            if evaluation.split not in self._sheets:
                self._sheets[evaluation.split] = SampleSheet(to_pictures(inputs, self._dataset.normalize) or [])
            answers = self._reader.read(output, targets, self._reader.few)
            pictures["samples"] = self._sheets[evaluation.split].draw(list(map(_describe, answers)))
        for name, picture in pictures.items():
            self._events.write_picture(step, f"{evaluation.split}/{name}", picture)
        self._due = started + _SHARE * (time.perf_counter() - started)


def _choose(count: int, size: int, world_size: int) -> list[tuple[int, int]]:
    """Return number of the batch and place in it of some samples of rank 0, spread evenly over those that it has."""
    own = sum(min(size, count - start) for start in range(0, count, size * world_size))
    places = sorted({number * own // _COUNT for number in range(min(own, _COUNT))} if own > _COUNT else range(own))
    return [(place // size * world_size, place % size) for place in places]


def _are_simple(targets: Nest, output: Nest) -> bool:
    """Whether both are one number a sample, or a row of them, so that a caption can show them."""
    return all(isinstance(each, Tensor) and 1 <= each.dim() <= 2 for each in (targets, output))


def _describe(answer: Answer) -> tuple[str, str, bool]:
    """Return the two lines of a caption, and whether the prediction is wrong."""
    if answer.guesses:
        chosen = ", ".join(f"{name} ({100 * probability:.0f} %)" for name, probability in answer.chosen())
        return str(answer.truth), chosen or "none", bool(answer.is_wrong)
    return f"true {_format(answer.truth)}", f"pred {_format(answer.numbers)}", False


def _format(value: Any) -> str:
    return format_number("value", value) if isinstance(value, float) else str(value)
