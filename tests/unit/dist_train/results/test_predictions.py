"""A split of a run with the network's outputs: those of an evaluation, each sample once."""

import json
from pathlib import Path

import pytest
import torch

from dist_train import evaluate
from dist_train.errors import CheckpointError, DataError
from dist_train.results.predictions import open_predictions
from launch import cli


def test_all_samples_of_a_split_come_in_order_with_the_outputs_of_the_evaluation(digits_run: Path) -> None:
    with open_predictions(digits_run, "train") as predictions:
        batches = list(predictions.batches())
        dataset = predictions.opened.dataset
    indices = torch.cat([batch.indices for batch in batches])
    assert indices.tolist() == predictions.opened.samples.indices.tolist()
    assert len(indices) == 96
    assert all(batch.inputs.shape[1:] == dataset.shape for batch in batches)
    right = sum(int((batch.output.argmax(1) == batch.targets).sum()) for batch in batches)
    assert right == evaluate(digits_run, "train").to_dict()["correct"]


def test_the_command_evaluate_prints_what_the_function_returns(
    digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(digits_run), "--split", "train", "--checkpoint", "best", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = evaluate(digits_run, "train", "best").to_dict()
    assert {name: printed[name] for name in found} == found
    assert cli.main(["evaluate", str(digits_run), "--split", "validation"]) == 2


@pytest.mark.parametrize("limit", [1, 7, 40, 1000])
def test_a_limit_takes_the_first_samples(digits_run: Path, limit: int) -> None:
    with open_predictions(digits_run, checkpoint="best") as predictions:
        found = torch.cat([batch.indices for batch in predictions.batches(limit)])
        assert found.tolist() == predictions.opened.samples.indices[:limit].tolist()


def test_what_is_no_run_no_checkpoint_or_no_split_is_refused(digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run"), open_predictions(tmp_path):
        pass
    with pytest.raises(CheckpointError, match="nothing"), open_predictions(digits_run, checkpoint="nothing"):
        pass
    with (
        pytest.raises(DataError, match="--split validation: this run has none"),
        open_predictions(digits_run, "validation"),
    ):
        pass
