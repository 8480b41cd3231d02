"""What `dist-train data` finds in data sets whose content is known."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_train.errors import DataError
from dist_train.results.describe_data import DataSummary, describe_data
from dist_train.settings.loader import load_config
from launch import cli
from tests.unit.dist_train.data.files import write_cifar, write_images

OWN = """
import torch
from torch.utils.data import Dataset, TensorDataset


class Points(Dataset):
    def __init__(self, split, broken=()):
        self.values = torch.arange(12.0).reshape(6, 2) if split == "train" else torch.tensor([[2.0, 3.0], [50.0, 1.0]])
        self.broken = broken

    def __len__(self):
        return len(self.values)

    def __getitem__(self, number):
        if number in self.broken and len(self) == 6:
            raise OSError(f"row {number} is torn")
        return {"x": self.values[number], "mask": torch.tensor(True)}, self.values[number].sum()


def labelled():
    inputs = torch.tensor([[0.0], [1.0], [0.0], [2.0]])
    part = TensorDataset(inputs, torch.tensor([0, 1, 1, 0]))
    return {"train": part, "test": TensorDataset(inputs[:2] + 1, torch.tensor([1, 0]))}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file; data are in `root` beside it."""
    path = tmp_path / "a.yaml"
    path.write_text(f"data: {{name: image_folder, root: {tmp_path}/root, cache: {tmp_path}/cache}}\nmodel: lenet\n")
    (tmp_path / "own.py").write_text(OWN)
    return path


def describe(file: Path, *overrides: str) -> DataSummary:
    return describe_data(load_config(file, overrides))


def write_own(file: Path, name: str, more: str = "") -> Path:
    file.write_text(f"data: {{name: 'own.py:{name}'{more}}}\nmodel: {{name: 'own.py:labelled'}}\n")
    return file


def test_cifar_is_described_exactly(file: Path) -> None:
    folder = write_cifar(file.parent / "root", each=20)
    data = [pickle.loads((folder / f"data_batch_{number}").read_bytes(), encoding="latin1") for number in range(1, 6)]  # noqa: S301
    pixels = np.concatenate([batch["data"] for batch in data]).reshape(-1, 3, 32, 32) / 255
    labels = [label for batch in data for label in batch["labels"]]
    found = describe(file, "data.name=cifar10", "data.download=false").to_dict()
    train = found["splits"]["train"]
    assert train["inputs"][""]["shapes"] == [{"shape": [3, 32, 32], "count": 100}]
    np.testing.assert_allclose(train["inputs"][""]["mean"], pixels.mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(train["inputs"][""]["std"], pixels.std(axis=(0, 2, 3)), rtol=1e-12)
    assert train["classes"] == {f"name{label}": labels.count(label) for label in sorted(set(labels))}
    assert (train["count"], found["splits"]["test"]["count"], train["duplicates"]) == (100, 20, 0)


class TestPictures:
    @pytest.fixture
    def root(self, file: Path) -> Path:
        root = file.parent / "root"
        write_images(root, classes=2, each=4, size=(6, 6))
        shutil.copy(root / "train/class0/0.png", root / "train/class0/copy.png")
        shutil.copy(root / "train/class0/0.png", root / "train/class1/other.png")
        shutil.copy(root / "train/class1/1.png", root / "test/class1/seen.png")
        return root

    def test_duplicates_within_and_between_splits_are_found(self, file: Path, root: Path) -> None:
        found = describe(file)
        assert found.is_readable
        assert found.shared == {("train", "test"): 1}
        assert found.contradictory == 1
        train = found.splits[0]
        assert [Path(name).name for name, _ in train.repeated] == ["copy.png", "other.png"]
        assert {earlier for _, earlier in train.repeated} == {str(root / "train/class0/0.png")}
        text = str(found)
        assert "duplicates: within train 2, within test 0, in train and test 1" in text
        assert "contradictory: 1 input with several labels" in text

    def test_a_picture_that_cannot_be_read_is_named(
        self, file: Path, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Also the first, and those of any size; the rest is described."""
        (root / "train/class0/0.png").write_bytes(b"not a picture")
        (root / "test/class1/0.png").write_bytes((root / "test/class1/1.png").read_bytes()[:40])
        shutil.copytree(root / "train", root / "more")
        write_images(root / "large", classes=1, each=2, size=(9, 7))
        shutil.copy(root / "large/train/class0/0.png", root / "train/class1/large.png")
        for folder in ("more", "large"):
            shutil.rmtree(root / folder)
        assert cli.main(["data", str(file), "--json"]) == 1
        found = json.loads(capsys.readouterr().out)["splits"]
        assert [str(root / "train/class0/0.png") in each for each in found["train"]["unreadable"]] == [True]
        assert [str(root / "test/class1/0.png") in each for each in found["test"]["unreadable"]] == [True]
        assert (found["train"]["count"], found["test"]["count"]) == (10, 4)
        shapes = [{"shape": [3, 6, 6], "count": 9}, {"shape": [3, 9, 7], "count": 1}]
        assert found["train"]["inputs"][""]["shapes"] == shapes
        assert cli.main(["data", str(file)]) == 1
        assert "train: 1 sample can't be read\n" in capsys.readouterr().out

    @pytest.mark.usefixtures("root")
    def test_the_samples_are_those_of_the_settings(self, file: Path) -> None:
        found = describe(file, "data.validation=0.25", "data.limit_train=8", "data.resize=3")
        assert [(split.name, split.count) for split in found.splits] == [("train", 6), ("validation", 2), ("test", 5)]
        assert found.splits[0].inputs[""].format_type() == "uint8 [3, 3, 3]"

    def test_data_that_are_not_there_are_refused(self, file: Path) -> None:
        with pytest.raises(DataError, match="is not a folder"):
            describe(file)


class TestOwnData:
    def test_places_and_numbers_of_a_regression(self, file: Path) -> None:
        write_own(file, "Points")
        found = describe(file, "task=regression")
        train = found.splits[0]
        assert {place: summary.format_type() for place, summary in train.inputs.items()} == {
            "x": "float32 [2]", "mask": "bool []",
        }  # fmt: skip
        assert train.inputs["x"].to_dict()["mean"] == [5.0, 6.0]
        assert train.targets[""].to_dict()["max"] == [21.0]
        assert (train.classes, found.shared) == ({}, {("train", "test"): 1})

    def test_an_item_that_raises_is_named(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        many = file.parent / "own.py"
        many.write_text(
            OWN.replace("torch.arange(12.0).reshape(6, 2)", "torch.arange(40.0).reshape(20, 2)").replace(
                "== 6", "== 20"
            )
        )
        write_own(file, "Points", ", args: {broken: [4, 6]}")
        assert cli.main(["data", str(file), "task=regression"]) == 1
        printed = capsys.readouterr().out
        assert "train 18, test 2 samples" in printed
        assert "  item 4: OSError: row 4 is torn\n  item 6: OSError: row 6 is torn\n" in printed

    def test_labels_of_one_input_may_contradict(self, file: Path) -> None:
        found = describe(write_own(file, "labelled"))
        assert found.splits[0].classes == {0: 2, 1: 2}
        assert (found.contradictory, found.shared) == (1, {("train", "test"): 2})
        assert found.splits[0].repeated == [("sample 2", "sample 0")]


def test_generators_stay_as_they_are(file: Path) -> None:
    write_own(file, "labelled")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    describe(file)
    assert torch.equal(torch.get_rng_state(), before)
