"""Opening a data set: which samples, which loader, which statistics."""

from pathlib import Path

import pytest
import torch

from dist_train.data import memory, open_dataset
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.settings.schema import Normalize
from tests.unit.dist_train.data.files import (
    SEED,
    Settings,
    held_out,
    labels_of,
    opened,
    refusal,
    write_idx,
    write_images,
)


def test_normalize_has_to_fit_the_channels(settings: Settings) -> None:
    numbers = (0.5,) * 3
    config = settings("digits", normalize=Normalize(mean=numbers, std=numbers))
    assert refusal(config).startswith("data.normalize: mean has 3 numbers, but images of digits have 1 channel;")


@pytest.mark.parametrize(("limit", "expected"), [(4, [0, 3, 6, 9]), (5, [0, 2, 4, 7, 9]), (12, None), (500, None)])
def test_limits_are_evenly_spaced(settings: Settings, root: Path, limit: int, expected: list[int] | None) -> None:
    write_idx(root)
    dataset = opened(settings("mnist", limit_train=limit, limit_test=2))
    assert dataset.train.indices.tolist() == (expected or list(range(12)))
    assert held_out(dataset).indices.tolist() == [0, 2]
    assert labels_of(dataset.train).tolist() == [index % 10 for index in dataset.train.indices.tolist()]


@pytest.mark.parametrize(("fraction", "held_out"), [(0.01, 1), (0.25, 3), (0.29, 3), (0.3, 4), (0.9, 11)])
def test_validation_is_split_off_by_the_seed(settings: Settings, root: Path, fraction: float, held_out: int) -> None:
    write_idx(root)
    dataset = opened(settings("mnist", validation=fraction))
    assert dataset.validation is not None
    assert len(dataset.validation) == held_out
    both = torch.cat([dataset.train.indices, dataset.validation.indices])
    assert sorted(both.tolist()) == list(range(12))
    other = open_dataset(settings("mnist", validation=fraction), SEED + 1, World()).validation
    assert other is not None
    if 1 < held_out < 11:
        assert not torch.equal(dataset.validation.indices, other.indices)


def test_no_validation_and_too_much(settings: Settings, root: Path) -> None:
    write_idx(root)
    assert opened(settings("mnist")).validation is None
    assert "leaves none to train on" in refusal(settings("mnist", validation=0.99))
    assert "data.validation is 0.1: of 1 training sample that" in refusal(
        settings("mnist", validation=0.1, limit_train=1)
    )


def test_auto_is_resident_where_it_fits(settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(root)
    size = (18 + 9) * 3 * 8 * 10
    for available, loader in ((2 * size, "in_memory"), (2 * size - 1, "workers")):
        monkeypatch.setattr(memory, "host_bytes", lambda available=available: available)
        assert opened(settings("image_folder")).loader == loader


@pytest.mark.parametrize("name", ["digits", "synthetic", "image_folder"])
def test_a_split_of_the_users_own_is_asked_of_own_data_only(settings: Settings, name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.validation=split: .* give a fraction of train"):
        opened(settings(name, validation="split"))
