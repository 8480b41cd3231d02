"""A run knows the data that it trains on, and refuses others by name."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dist_train.data.identity import DataIdentity, SplitIdentity, TableFormat, compare
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config, Normalize
from dist_train.train import train
from tests.modules import evaluate
from tests.unit.dist_train.data.files import write_images

ONE = DataIdentity(
    (3, 8, 8),
    ("cat", "dog"),
    Normalize(mean=(0.5,) * 3, std=(0.2,) * 3),
    {"train": SplitIdentity((3, 4), "ab" * 32, 7)},
)


TABLE = dataclasses.replace(ONE, table=TableFormat(("age", "bmi"), "years", (1.5, 0.0), (2.0, 1.0)))


@pytest.mark.parametrize("one", [ONE, TABLE])
def test_what_is_stored_comes_back(one: DataIdentity) -> None:
    assert DataIdentity.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert compare(ONE, DataIdentity.from_dict(ONE.to_dict()), "then", "now") == []


@pytest.mark.parametrize(
    ("classes", "counts", "complaints"),
    [
        (("cat", "dog"), (3, 5), ["samples of class dog: 4 then, 5 now", "train samples: 7 then, 8 now"]),
        (("dog", "zebra"), (4, 3), ["classes: cat only then, zebra only now"]),
        (("dog", "zebra"), (5, 2), ["classes: cat only then", "samples of class dog: 4 then, 5 now"]),
        (("dog", "cat"), (4, 3), ["order of the classes: cat, dog then, dog, cat now"]),
        (("cat", "dog", "emu"), (3, 4, 1), ["classes: none only then, emu only now", "train samples: 7 then, 8 now"]),
        (("cat",), (3,), ["classes: dog only then, none only now", "train samples: 7 then, 3 now"]),
    ],
)
def test_counts_are_compared_by_the_name_of_a_class(
    classes: tuple[str, ...], counts: tuple[int, ...], complaints: list[str]
) -> None:
    now = DataIdentity(ONE.shape, classes, ONE.normalize, {"train": SplitIdentity(counts, "ab" * 32, sum(counts))})
    found = compare(ONE, now, "then", "now")
    assert len(found) == len(complaints)
    assert all(complaint in line for complaint, line in zip(complaints, found, strict=True)), found


@pytest.mark.parametrize(
    "changed",
    [
        {"columns": ["age"]},
        {"columns": [1, 2]},
        {"target": None},
        {"shift": [1.0]},
        {"shift": [1, 2]},
        {"scale": [1.0, float("nan")]},
        {"scale": None},
    ],
    ids=str,
)
def test_a_table_without_a_number_for_each_column_is_refused(changed: dict[str, Any]) -> None:
    stored = TABLE.to_dict()
    with pytest.raises(ValueError, match="no description of data"):
        DataIdentity.from_dict({**stored, "table": {**stored["table"], **changed}})


def test_other_columns_are_named() -> None:
    other = dataclasses.replace(TABLE, table=TableFormat(("age", "size"), "years", (0.0, 0.0), (1.0, 1.0)))
    assert compare(TABLE, other, "then", "now") == ["columns: age, bmi -> years then, age, size -> years now"]


@pytest.mark.parametrize("value", [0.5, "1", True, -1, None])
def test_a_count_is_a_whole_number(value: Any) -> None:
    for changed in (
        {"shape": [value, 1, 1]},
        {"splits": {"train": {"counts": [value], "files": ""}}, "classes": ["a"]},
    ):
        with pytest.raises(ValueError, match="is no int"):
            DataIdentity.from_dict(ONE.to_dict() | changed)


@pytest.mark.parametrize("key", ["shape", "classes", "mean", "std", "splits"])
@pytest.mark.parametrize(
    "value", [None, 3, "text", [], {}, [None], {"train": 3}, {"train": {"counts": [1], "files": ""}}]
)
def test_what_is_not_a_description_is_a_value_error(key: str, value: Any) -> None:
    """Or it is one, of other data; never another exception."""
    try:
        found = DataIdentity.from_dict(ONE.to_dict() | {key: value})
    except ValueError:
        return
    assert DataIdentity.from_dict(found.to_dict()) == found


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    settings = tmp_path / "run.yaml"
    settings.write_text("""
data: {name: image_folder, global_batch: 6}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.1}
train: {max_steps: 2}
log: {tensorboard: false}
""")
    write_images(tmp_path / "data", size=(8, 8))

    def build(*more: str, root: str = "data") -> Config:
        given = (f"data.root={tmp_path / root}", f"data.cache={tmp_path / 'cache'}", f"run.dir={tmp_path / 'run'}")
        threads = f"distributed.threads={torch.get_num_threads()}"  # training in this process changes them otherwise
        return load_config(settings, [*given, threads, *more])

    return build


def replace(path: Path) -> None:
    """Another picture of the same name, and of the same size in bytes if it is a bitmap."""
    Image.eval(Image.open(path), lambda value: 255 - value).save(path)


def replace_all(data: Path, split: str) -> None:
    for path in sorted((data / split).rglob("*.png")):
        replace(path)


def rename_class(data: Path) -> None:
    """The labels of all classes permute."""
    for split in ("train", "test"):
        (data / split / "class0").rename(data / split / "zebra")


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "all replaced": (lambda data: replace_all(data, "train"), "train files (digest of names and contents): "),
    "one replaced": (lambda data: replace(data / "train/class1/0.png"), "train files (digest of names and contents): "),
    "one of test": (lambda data: replace(data / "test/class1/0.png"), "test files (digest of names and contents): "),
    "one added": (
        lambda data: shutil.copy(data / "train/class1/0.png", data / "train/class1/new.png"),
        "train samples of class class1: 6 in the checkpoint, 7 now",
    ),
    "one removed": (
        lambda data: (data / "train/class2/5.png").unlink(),
        "train samples of class class2: 6 in the checkpoint, 5 now",
    ),
    "one moved": (
        lambda data: (data / "train/class2/5.png").rename(data / "train/class0/6.png"),
        "train samples of class class0: 6 in the checkpoint, 7 now",
    ),
    "two swapped": (
        lambda data: [
            (data / "train/class0/0.png").rename(data / "x.png"),
            (data / "train/class1/0.png").rename(data / "train/class0/0.png"),
            (data / "x.png").rename(data / "train/class1/0.png"),
        ],
        "train files (digest of names and contents): ",
    ),
    "class renamed": (rename_class, "classes: class0 only in the checkpoint, zebra only now"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_resume_over_other_data_is_refused_by_name(tmp_path: Path, config: Callable[..., Config], what: str) -> None:
    change, message = CHANGES[what]
    assert train(config(), World())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    change(tmp_path / "data")
    with pytest.raises(CheckpointError) as caught:
        train(config("train.max_steps=4"), World())
    assert message in str(caught.value)
    assert "run.resume=never" in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_the_same_files_elsewhere_are_the_same_data(tmp_path: Path, config: Callable[..., Config]) -> None:
    """As on a job's scratch, with new times; nothing is decoded again."""
    assert train(config(), World())
    cached = {path.name for path in (tmp_path / "cache").iterdir()}
    shutil.copytree(tmp_path / "data", tmp_path / "scratch")
    shutil.rmtree(tmp_path / "data")
    for path in (tmp_path / "scratch").rglob("*.png"):
        os.utime(path, (1, 1))
    assert train(config("train.max_steps=4", root="scratch"), World())
    assert {path.name for path in (tmp_path / "cache").iterdir()} == cached


def evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    capsys.readouterr()
    evaluate.main([str(tmp_path / "run"), "--json", *more])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("loader", ["in_memory", "workers"])
def test_an_evaluation_uses_the_mean_and_std_of_the_run(
    tmp_path: Path, config: Callable[..., Config], capsys: pytest.CaptureFixture[str], loader: str
) -> None:
    """Whatever has become of the training files, which it does not read."""
    assert train(config(f"data.loader={loader}", "data.workers=0"), World())
    before = evaluated(tmp_path, capsys)
    for path in (tmp_path / "data/train").rglob("*.png"):
        Image.new("RGB", (8, 8), "white").save(path)
    shutil.rmtree(tmp_path / "cache")
    assert evaluated(tmp_path, capsys) == before
    shutil.rmtree(tmp_path / "data/train")
    assert evaluated(tmp_path, capsys) == before


def test_a_resume_uses_the_mean_and_std_of_the_run(tmp_path: Path, config: Callable[..., Config]) -> None:
    """Even if they would be computed otherwise now."""
    assert train(config(), World())
    for path in (tmp_path / "cache").glob("*.statistics.json"):
        path.unlink()
    assert train(config("train.max_steps=4"), World())
    assert not list((tmp_path / "cache").glob("*.statistics.json"))
