"""Rows of numbers are read like the user's data sets, and scaled by the rows that are trained on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_train.data import Batch, Dataset, TrainBatches, open_dataset, open_split
from dist_train.distributed.world import World
from dist_train.errors import DataError
from dist_train.settings.schema import LineData, Noise, TableData

SEED = 3
Ranks = list[World]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lines = [f"{number},{number % 7},5,{number**2}\n" for number in range(30)]
    (tmp_path / "a.csv").write_text("x,rest,five,square\n" + "".join(lines))
    return tmp_path / "a.csv"


def configure(path: Path, **settings: Any) -> TableData:
    return TableData(name="table", file=str(path), global_batch=6, **settings)


def opened(config: TableData | LineData, stored: Dataset | None = None) -> Dataset:
    return open_dataset(config, SEED, World(), stored.identity if stored else None)


def inputs_of(dataset: Dataset) -> Tensor:
    ((inputs, _),) = dataset.train.read(torch.arange(len(dataset.train)), 0)
    return inputs  # type: ignore[no-any-return]


@pytest.mark.parametrize("loader", ["auto", "workers"])
def test_training_rows_are_scaled(path: Path, loader: str) -> None:
    settings = {"loader": loader, "workers": 0, "validation": 0.25}
    whole, none = (inputs_of(opened(configure(path, scale=scale, **settings))) for scale in ("minmax", "none"))
    assert (whole.dtype, whole.amin(dim=0).tolist(), whole.amax(dim=0).tolist()) == (torch.float32, [0] * 3, [1, 1, 0])
    standard = inputs_of(opened(configure(path, **settings))).double()
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(standard.std(dim=0, correction=0), torch.tensor([1.0, 1, 0]).double())
    assert set(none[:, 2].tolist()) == {5}
    dataset = opened(configure(path, **settings))
    assert [samples.split for samples in dataset.held_out] == ["validation", "test"]
    assert dataset.shape is None
    assert dataset.identity.structure == "(float32 [3], float32 [])"


def test_a_run_keeps_its_scale_for_other_rows(path: Path) -> None:
    config = configure(path, scale="minmax")
    dataset = opened(config)
    assert opened(config, dataset).identity == dataset.identity
    path.write_text("square,five,rest,x\n" + "9,5,0,1000\n" * 10)
    later = open_split(config, SEED, World(), "test", dataset.identity)
    ((inputs, targets),) = later.samples.read(torch.arange(2), 0)
    assert later.identity.table == dataset.identity.table
    assert inputs[0, 0] > 30
    assert targets.tolist() == [9.0, 9.0]
    path.write_text("x,rest,square\n1,2,3\n4,5,6\n")
    with pytest.raises(DataError, match="lacks five; the network was trained on the columns x, rest, five"):
        open_split(config, SEED, World(), "test", dataset.identity)


def test_changed_rows_are_noticed(path: Path) -> None:
    before = opened(configure(path)).identity
    path.write_text(path.read_text().replace("\n3,3,5,9\n", "\n3.5,3,5,9\n"))
    assert opened(configure(path)).identity.splits != before.splits


def test_a_split_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(DataError, match="it has no split test"):
        opened(configure(path, test=0.0))
    dataset = opened(configure(path))
    with pytest.raises(DataError, match=r"--split test: data.test is 0"):
        open_split(configure(path, test=0.0), SEED, World(), "test", dataset.identity)


def batches(config: TableData, world: World, steps: tuple[int, int]) -> list[Batch]:
    with TrainBatches(opened(config), config, SEED, world, *steps) as stream:
        return list(stream)


def test_noise_is_the_same_on_any_number_of_ranks_and_after_any_resume(path: Path) -> None:
    config = configure(path, augment=Noise(noise=0.2))
    (whole, plain), later = (batches(each, World(), (0, 8)) for each in (config, configure(path))), {}
    for rank in (0, 1):
        later[rank] = batches(config, World(rank=rank, size=2), (5, 8))
    assert not torch.equal(whole[0].shards[0].passes[0].inputs, plain[0].shards[0].passes[0].inputs)
    for step in range(5, 8):
        (expected,) = whole[step].shards[0].passes
        parts = [later[rank][step - 5].shards[0].passes[0].inputs for rank in (0, 1)]
        assert torch.equal(torch.cat(parts), expected.inputs)
