"""Predictions of single samples, as classes with probabilities or as numbers.

classification   classes, the most probable first: softmax of logits, also of those of `nll`
multilabel       likewise, each class by itself: sigmoid of its logit
others           numbers as the network returns them
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dist_train.eval_line import to_plain
from dist_train.nest import Nest, list_tensors, map_tensors
from dist_train.tasks.output import align, select, to_labels


class Guess(NamedTuple):
    """A class with the probability that the network gives it."""

    name: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """The network's prediction for one sample, with the truth."""

    truth: Any
    """Name of the true class; a list of names for multilabel, numbers for other tasks; None where it is not known."""
    guesses: tuple[Guess, ...] = ()
    """The most probable first; empty where the task has no classes."""
    numbers: Any = None
    """The output of the sample where the task has no classes: a number, lists, dicts."""
    is_wrong: bool | None = None
    """Whether the most probable class is not the true one, or any of multilabel; None where there is no truth."""

    def chosen(self) -> tuple[Guess, ...]:
        """Return the predicted classes: the most probable one, for multilabel those above 50 %."""
        if isinstance(self.truth, list):
            return tuple(guess for guess in self.guesses if guess.probability > 0.5)
        return self.guesses[:1]


@dataclass(frozen=True)
class AnswerReader:
    """Reads a network's output, sample by sample."""

    task: str
    """The setting `task`."""
    classes: tuple[str, ...]
    """Names of the classes; a class without one is shown by its number."""
    field: str | int | None = None
    """The setting `loss.output`."""

    @property
    def few(self) -> int | None:
        """How many guesses `Answer.chosen` needs; None: all."""
        return None if self.task == "multilabel" else 1

    def read(self, output: Nest, targets: Nest = None, most: int | None = None) -> list[Answer]:
        """Return an answer for each sample of a batch.

        Args:
            output: of the network, its floats in at least fp32.
            targets: as the loss gets them; None: the truth is not known.
            most: guesses of a sample; None: all classes.

        Raises:
            ConfigError: the output has no such field.
        """
        selected, targets = map_tensors(lambda tensor: tensor.detach().cpu(), (select(output, self.field), targets))
        if self.task == "classification" and _are_logits(selected):
            return self._read_classes(selected.softmax(dim=1), targets, most)
        if self.task == "multilabel" and _are_logits(selected, fewest=1):
            return self._read_labels(selected.sigmoid(), targets, most)
        if self.task == "regression" and isinstance(aligned := align(selected, targets), Tensor):
            targets = aligned
        numbers = _list_samples(selected)
        truths = [None] * len(numbers) if targets is None else _list_samples(targets)
        return [Answer(truth, numbers=each) for truth, each in zip_longest(truths, numbers)]

    def _read_classes(self, probabilities: Tensor, targets: Nest, most: int | None) -> list[Answer]:
        guesses = self._rank(probabilities, most)
        if not isinstance(targets, Tensor):
            return [Answer(None, of_sample) for of_sample in guesses]
        labels = to_labels(targets)
        wrong = (probabilities.argmax(dim=1) != labels).tolist()
        truths = map(self._name, labels.tolist())
        return [
            Answer(truth, of_sample, None, each) for truth, of_sample, each in zip(truths, guesses, wrong, strict=True)
        ]

    def _read_labels(self, probabilities: Tensor, targets: Nest, most: int | None) -> list[Answer]:
        guesses = self._rank(probabilities, most)
        if not isinstance(targets, Tensor):
            return [Answer(None, of_sample) for of_sample in guesses]
        wrong = ((probabilities > 0.5) != (targets > 0.5)).any(dim=1).tolist()
        truths = ([self._name(number) for number, there in enumerate(row) if there] for row in (targets > 0.5).tolist())
        return [
            Answer(truth, of_sample, None, each) for truth, of_sample, each in zip(truths, guesses, wrong, strict=True)
        ]

    def _rank(self, probabilities: Tensor, most: int | None) -> list[tuple[Guess, ...]]:
        """Return the guesses of each sample; of equal ones the first class comes first, as in the accuracy."""
        ranked, numbers = probabilities.sort(dim=1, descending=True, stable=True)
        return [
            tuple(Guess(self._name(number), value) for number, value in zip(*row, strict=True))
            for row in zip(numbers[:, :most].tolist(), ranked[:, :most].tolist(), strict=True)
        ]

    def _name(self, number: int) -> str:
        return self.classes[number] if 0 <= number < len(self.classes) else str(number)


def _are_logits(output: Nest, fewest: int = 2) -> bool:
    """Whether an output is float [B, C]."""
    return isinstance(output, Tensor) and output.is_floating_point() and output.dim() == 2 and output.shape[1] >= fewest


def _list_samples(nest: Nest) -> list[Any]:
    """Return what a nest holds of each sample, in numbers, lists and dicts."""
    tensors = [tensor for tensor in list_tensors(nest) if tensor.dim()]
    return [_pick(nest, number) for number in range(len(tensors[0]) if tensors else 0)]


def _pick(nest: Nest, number: int) -> Any:
    """Return one sample of a nest; a list of one number is that number."""
    if isinstance(nest, Tensor):
        numbers = torch.view_as_real(nest) if nest.is_complex() else nest
        found = to_plain((numbers[number] if numbers.dim() else numbers).tolist())
        return found[0] if isinstance(found, list) and len(found) == 1 and not isinstance(found[0], list) else found
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        return {field.name: _pick(getattr(nest, field.name), number) for field in dataclasses.fields(nest)}
    if isinstance(nest, Mapping):
        return {str(key): _pick(value, number) for key, value in nest.items()}
    if isinstance(nest, tuple | list):
        return [_pick(value, number) for value in nest]
    return to_plain(nest) if isinstance(nest, bool | int | float | str) else None
