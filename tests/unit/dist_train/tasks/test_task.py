"""Losses and evaluations at 1 and 4 ranks are those of torch over the whole batch, and the same bits."""

import json
from typing import Any

import pytest
import torch

from tests.conftest import Ranks
from tests.programs.tasks import COUNTS, SPLIT
from tests.unit.dist_train.tasks.cases import CASES, Net, make_samples, write_files

WORLDS = (1, 4)
Results = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def results(on_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each rank of each world size has written."""
    found: Results = {}
    for size in WORLDS:
        directory = tmp_path_factory.mktemp(f"ranks{size}")
        write_files(directory)
        done = on_ranks(size, "-m", "tests.programs.tasks", str(directory))
        assert done.returncode == 0, done.stderr
        found[size] = [json.loads((directory / f"{rank}.json").read_text()) for rank in range(size)]
    return found


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_torch_over_the_whole_batch(results: Results, name: str) -> None:
    for number, count in enumerate(COUNTS):
        inputs, targets = make_samples(name, count)
        network = Net(CASES[name])
        loss = CASES[name].reference(network(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])
        for ranks in results.values():
            for result in ranks:
                step = result[name]["steps"][number]
                assert step["loss"] == pytest.approx(loss.item(), rel=1e-12)
                torch.testing.assert_close(torch.tensor(step["gradients"], dtype=torch.float64), gradients)


@pytest.mark.parametrize("name", CASES)
def test_an_evaluation_has_the_same_bits_at_any_number_of_ranks(results: Results, name: str) -> None:
    found = {json.dumps(result[name]["evaluation"]) for ranks in results.values() for result in ranks}
    assert len(found) == 1


@pytest.mark.parametrize("name", [name for name in CASES if "smoothing" not in CASES[name].settings])
def test_the_loss_of_an_evaluation_is_that_of_torch_over_the_whole_split(results: Results, name: str) -> None:
    inputs, targets = make_samples(name, SPLIT)
    loss = CASES[name].reference(Net(CASES[name])(inputs), targets)
    assert results[1][0][name]["evaluation"]["loss"] == pytest.approx(loss.item(), rel=1e-12)
