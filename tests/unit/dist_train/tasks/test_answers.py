"""Predictions of single samples: names with probabilities, or numbers, beside the truth."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_train.errors import ConfigError
from dist_train.tasks.answers import Answer, AnswerReader, Guess

CLASSES = ("cat", "dog", "cow")
LOGITS = torch.tensor([[0.0, 2.0, 1.0], [3.0, 3.0, 3.0]])


def test_classes_are_ranked_by_softmax_and_equal_ones_as_the_accuracy_does() -> None:
    first, second = AnswerReader("classification", CLASSES).read(LOGITS, torch.tensor([1, 2]))
    assert [guess.name for guess in first.guesses] == ["dog", "cow", "cat"]
    assert [guess.name for guess in second.guesses] == ["cat", "dog", "cow"]
    assert sum(guess.probability for guess in first.guesses) == pytest.approx(1)
    assert (first.truth, first.is_wrong, second.truth, second.is_wrong) == ("dog", False, "cow", True)
    (of_nll, _) = AnswerReader("classification", CLASSES).read(LOGITS.log_softmax(1))
    assert [guess.probability for guess in of_nll.guesses] == pytest.approx([g.probability for g in first.guesses])


def test_the_most_probable_are_returned_and_no_truth_is_no_mistake() -> None:
    answers = AnswerReader("classification", CLASSES).read(LOGITS, most=1)
    assert [len(answer.guesses) for answer in answers] == [1, 1]
    assert {(answer.truth, answer.is_wrong) for answer in answers} == {(None, None)}


def test_a_class_or_a_label_without_a_name_is_shown_by_its_number() -> None:
    (answer,) = AnswerReader("classification", CLASSES[:2]).read(LOGITS[:1], torch.tensor([-100]))
    assert {guess.name for guess in answer.guesses} == {"cat", "dog", "2"}
    assert answer.truth == "-100"


def test_shares_of_classes_have_the_largest_as_truth() -> None:
    (answer,) = AnswerReader("classification", CLASSES).read(LOGITS[:1], torch.tensor([[0.1, 0.2, 0.7]]))
    assert (answer.truth, answer.is_wrong) == ("cow", True)


def test_multilabel_has_a_probability_for_each_class_and_a_list_as_truth() -> None:
    reader = AnswerReader("multilabel", CLASSES)
    right, wrong = reader.read(torch.tensor([[5.0, -5, 5], [5, 5, 5]]), torch.tensor([[1.0, 0, 1], [1, 0, 0]]))
    assert (right.truth, right.is_wrong, wrong.truth, wrong.is_wrong) == (["cat", "cow"], False, ["cat"], True)
    assert right.guesses[0] == Guess("cat", torch.tensor(5.0).sigmoid().item())
    assert [answer.truth for answer in reader.read(torch.zeros(1, 3))] == [None]


def test_the_chosen_are_the_most_probable_class_or_all_labels_above_a_half() -> None:
    def choose(task: str, targets: Tensor) -> list[list[str]]:
        reader = AnswerReader(task, CLASSES)
        answers = reader.read(torch.tensor([[5.0, -5, 4], [-5, -4, -3]]), targets, reader.few)
        return [[guess.name for guess in answer.chosen()] for answer in answers]

    assert choose("multilabel", torch.zeros(2, 3)) == [["cat", "cow"], []]
    assert choose("classification", torch.tensor([0, 1])) == [["cat"], ["cow"]]


@pytest.mark.parametrize("output", [torch.tensor([1.5, 2.5]), torch.tensor([[1.5], [2.5]])])
@pytest.mark.parametrize("targets", [torch.tensor([1.0, 2.0]), torch.tensor([[1.0], [2.0]])])
def test_regression_is_a_number_a_sample(output: Tensor, targets: Tensor) -> None:
    assert AnswerReader("regression", ()).read(output, targets) == [Answer(1.0, (), 1.5), Answer(2.0, (), 2.5)]
    assert AnswerReader("regression", ()).read(output) == [Answer(None, (), 1.5), Answer(None, (), 2.5)]


@dataclass
class Boxes:
    corners: Tensor
    name: str = "box"


OUTPUTS: dict[str, tuple[Any, Any]] = {
    "numbers": (torch.tensor([[1.0, 2.0]]), [1.0, 2.0]),
    "a grid": (torch.zeros(1, 2, 2), [[0.0, 0.0], [0.0, 0.0]]),
    "a dict": ({"a": torch.ones(1, 1), "b": 3}, {"a": 1.0, "b": 3}),
    "a tuple": ((torch.ones(1), torch.tensor(2)), [1.0, 2]),
    "a dataclass": (Boxes(torch.ones(1, 2)), {"corners": [1.0, 1.0], "name": "box"}),
    "no numbers": (torch.tensor([float("nan")]), None),
    "complex": (torch.tensor([1 + 2j]), [1.0, 2.0]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_task_of_the_users_own_shows_the_output_as_json_can_hold_it(kind: str) -> None:
    output, expected = OUTPUTS[kind]
    (answer,) = AnswerReader("my.py:Task", CLASSES).read(output, output)
    assert (answer.numbers, answer.truth, answer.guesses) == (expected, expected, ())
    json.dumps(answer.numbers, allow_nan=False)


def test_the_field_that_the_loss_gets_is_read_and_a_wrong_one_refused() -> None:
    assert AnswerReader("classification", CLASSES, "logits").read({"logits": LOGITS})[0].guesses[0].name == "dog"
    with pytest.raises(ConfigError, match=r"loss\.output is nothing"):
        AnswerReader("classification", CLASSES, "nothing").read({"logits": LOGITS})
