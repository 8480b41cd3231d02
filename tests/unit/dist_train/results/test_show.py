"""Samples are drawn as the network gets them, with what it says; of its mistakes the most confident come first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train import load_config
from dist_train.errors import ConfigError
from dist_train.results import show
from dist_train.results.predictions import open_predictions
from dist_train.tasks.answers import AnswerReader

DIGITS = ["data.limit_train=96", "data.limit_test=40"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Sequence[Sequence[str]], Sequence[bool]]]:
    """Pictures, captions and frames that were to be drawn."""
    calls: list[Any] = []
    monkeypatch.setattr(show, "draw_grid", lambda *given: calls.append((given[0], given[1], given[3])))
    return calls


def test_samples_of_settings_are_spread_over_the_split(tmp_path: Path, drawn: list[Any]) -> None:
    told = show.show_data(load_config("digits", DIGITS), "test", False, 4, tmp_path / "a.png")
    assert told == "4 of 40 samples of the test split"
    ((pictures, captions, wrong),) = drawn
    numbers = [int(lines[-1].removeprefix("#")) for lines in captions]
    assert numbers == sorted(numbers)
    assert (len(pictures), pictures[0].shape, any(wrong)) == (4, (28, 28), False)


def test_augmented_samples_are_those_of_the_first_steps(tmp_path: Path, drawn: list[Any]) -> None:
    config = load_config("digits", [*DIGITS, "data.global_batch=10", "train.micro_batch=3"])
    told = show.show_data(config, "train", True, 24, tmp_path / "a.png")
    assert told == "24 of 96 samples of the train split"
    ((pictures, captions, _),) = drawn
    numbers = [lines[-1] for lines in captions]
    assert len(set(numbers)) == len(pictures) == 24
    assert numbers != sorted(numbers)


def test_a_run_tells_truth_and_prediction_and_its_worst_mistakes_first(
    tmp_path: Path, digits_run: Path, drawn: list[Any]
) -> None:
    with open_predictions(digits_run) as predictions:
        reader = AnswerReader("classification", predictions.opened.dataset.classes)
        (batch,) = predictions.batches()
        answers = reader.read(batch.output, batch.targets)
        mistakes = sorted(
            (
                (-answer.guesses[0].probability, [f"truth {answer.truth}", f"#{index}"])
                for index, answer in zip(batch.indices.tolist(), answers, strict=True)
                if answer.is_wrong
            ),
        )
        told = show.show_run(predictions, None, tmp_path / "a.png")
        assert told == "24 of 40 samples of the test split"
        told = show.show_mistakes(predictions, 3, tmp_path / "a.png")
        assert told == f"the worst 3 of {len(mistakes)} mistakes in 40 samples of the test split"
    (_, captions, wrong), (_, worst, frames) = drawn
    assert len(captions) == 24
    assert [lines[1:] for lines in worst] == [lines for _, lines in mistakes[:3]]
    assert worst[0][0].endswith(f"({-100 * mistakes[0][0]:.0f} %)")
    assert all(frames)
    assert not all(wrong)


OWN = """
import torch
from torch.utils.data import TensorDataset

class Line(TensorDataset):
    def __init__(self, split, shape=(1,), label=False):
        x = torch.linspace(0, 1, 20)
        inputs = x.view(-1, *[1] * len(shape)).expand(-1, *shape)
        super().__init__(inputs.clone(), (x > 0.5).long() if label else 3 * x + 2)
"""


@pytest.mark.parametrize(
    ("shape", "label", "problem"),
    [
        ([1], False, None),
        ([4], False, None),
        ([3, 8, 8], True, None),
        ([13], False, r"an input is float32 \[1, 13\] and its target float32 \[1\], which can't be drawn"),
        ([2, 8], True, "can't be drawn"),
        ([1], True, "can't be drawn"),
    ],
)
def test_own_data_are_pictures_or_points_or_refused(
    tmp_path: Path, shape: list[int], label: bool, problem: str | None
) -> None:
    (tmp_path / "sets.py").write_text(OWN)
    (tmp_path / "own.yaml").write_text(
        f'data: {{name: "sets.py:Line", args: {{shape: {shape}, label: {str(label).lower()}}}, global_batch: 4}}\n'
        "model: {name: lenet}\noptim: {lr: 0.1}\n"
    )
    config, path = load_config(tmp_path / "own.yaml"), tmp_path / "a.png"
    if problem is None:
        assert show.show_data(config, "train", False, None, path) == "20 of 20 samples of the train split"
        assert path.stat().st_size > 5000
        return
    with pytest.raises(ConfigError, match=problem):
        show.show_data(config, "train", False, None, path)
    assert not path.exists()


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--split validation: the data have none"):
        show.show_data(load_config("digits", DIGITS), "validation", False, 4, tmp_path / "a.png")


def test_copies_of_samples_do_not_keep_their_batch() -> None:
    batch = torch.zeros(100, 8)
    sample = show._Sample(0, batch[:1], batch[:1, 0]).copy()
    assert sample.inputs.untyped_storage().nbytes() == 32
