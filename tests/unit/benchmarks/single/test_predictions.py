"""Predictions are counted in pictures a second, and compared by round."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.single import predictions
from dist_train.errors import DataError
from dist_train.results.predict.picture_files import PictureNetwork
from dist_train.tasks.answers import AnswerReader


def test_only_pictures_that_are_predicted_count(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    batches: list[int] = []

    def compute(pictures: Tensor) -> Tensor:
        batches.append(len(pictures))
        return pictures

    network = PictureNetwork(lambda _: torch.zeros(3), compute, AnswerReader("classification", ()), batch=4)
    clock = iter((0.0, 2.0, 0.0, 2.0))
    files: list[str | DataError] = [*[str(tmp_path / "a.png")] * 6, DataError("none")]
    assert predictions.measure_predict(files, network, lambda: next(clock)) == 3
    assert predictions.measure_network(torch.zeros(6, 3), network, lambda: next(clock)) == 3
    assert batches == [4, 2, 4, 2]


def test_ratios_are_medians_of_those_of_the_rounds() -> None:
    found = {"predict": [90.0, 50, 100], "network alone": [100.0, 100, 100], "one at a time": [10.0, 10, 20]}
    text = predictions.report("resnet18", found)
    assert "| resnet18 | 90.0 | 100 | 10.0 | 0.900 (0.500 to 1.00) | 5.00 (5.00 to 9.00) |" in text
