"""Which samples of a folder of classes belong to which split."""

from pathlib import Path

import pytest
import torch

from dist_train.data import open_split
from dist_train.distributed.world import World
from dist_train.errors import DataError
from tests.unit.dist_train.data.files import SEED, Settings, labels_of, opened, refusal, write_images


@pytest.fixture
def whole(root: Path) -> Path:
    """Three classes of 10, 20 and 30 images, and no split."""
    write_images(root, each=30)
    (root / "train").rename(root.parent / "classes")
    for left in sorted(root.rglob("*"), reverse=True):
        left.rmdir() if left.is_dir() else left.unlink()
    root.rmdir()
    (root.parent / "classes").rename(root)
    for label in range(3):
        for number in range(10 * (label + 1), 30):
            (root / f"class{label}" / f"{number}.png").unlink()
    return root


@pytest.mark.parametrize(("test", "validation"), [(0.2, 0.0), (0.0, 0.2), (0.2, 0.1), (0.5, 0.4)])
def test_each_split_has_its_part_of_each_class(settings: Settings, whole: Path, test: float, validation: float) -> None:  # noqa: ARG001
    config = settings("image_folder", test=test, validation=validation)
    dataset = opened(config)
    splits = {"test": dataset.test, "validation": dataset.validation, "train": dataset.train}
    parts = {"test": test, "validation": validation, "train": 1 - test - validation}
    found = []
    for name, samples in splits.items():
        if samples is None:
            assert parts[name] == 0
            continue
        counts = torch.bincount(labels_of(samples), minlength=3).tolist()
        assert counts == [round(parts[name] * count) for count in (10, 20, 30)]
        found += samples.indices.tolist()
        alone = open_split(config, SEED, World(), samples.split, dataset.identity)
        assert torch.equal(alone.samples.indices, samples.indices)
    assert sorted(found) == list(range(60))
    again = opened(config)
    assert torch.equal(again.train.indices, dataset.train.indices)


def test_other_classes_change_nothing(settings: Settings, whole: Path) -> None:
    """What is held out of a class depends on its own images."""
    before = opened(settings("image_folder", test=0.3)).test
    (whole / "class2" / "29.png").unlink()
    after = opened(settings("image_folder", test=0.3)).test
    assert before is not None
    assert after is not None
    assert before.indices[before.indices < 30].tolist() == after.indices[after.indices < 30].tolist()


def test_fractions_that_hold_out_nothing_or_all_are_refused(settings: Settings, whole: Path) -> None:  # noqa: ARG001
    assert "so nothing is held out. Set data.test" in refusal(settings("image_folder"))
    assert "data.test=0.01 holds out no image of any class" in refusal(settings("image_folder", test=0.01))
    assert "leave no image to train on of a class with 10 images" in refusal(
        settings("image_folder", test=0.5, validation=0.49)
    )


def test_a_fraction_beside_folders_of_splits_is_refused(settings: Settings, root: Path) -> None:
    write_images(root)
    assert "data.test=0.2: " in refusal(settings("image_folder", test=0.2))


def test_a_folder_of_test_images_can_be_evaluated_alone(settings: Settings, root: Path) -> None:
    """Also of a run that had none."""
    write_images(root)
    config = settings("image_folder", validation=0.2)
    dataset = opened(config)
    for left in sorted((root / "train").rglob("*"), reverse=True):
        left.rmdir() if left.is_dir() else left.unlink()
    (root / "train").rmdir()
    for stored in (dataset.identity, dataset.identity.restrict(["train"])):
        alone = open_split(config, SEED, World(), "test", stored)
        assert len(alone.samples) == 9
    with pytest.raises(DataError, match="train: is not a folder"):
        opened(config)


def test_a_limit_keeps_the_first_samples_or_some_in_equal_distances(settings: Settings, whole: Path) -> None:  # noqa: ARG001
    for limit, expected in (("first", [0, 1, 2, 3, 4]), ("spaced", [0, 3, 7, 10, 14])):
        samples = opened(settings("image_folder", test=0.3, limit=limit, limit_test=5)).test
        every = opened(settings("image_folder", test=0.3)).test
        assert samples is not None
        assert every is not None
        assert samples.indices.tolist() == every.indices[expected].tolist()
