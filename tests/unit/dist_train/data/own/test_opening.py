"""Which data sets are opened and how, and what is said of others."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.data import open_dataset, open_split
from dist_train.data.identity import DataIdentity, compare
from dist_train.distributed.world import World
from dist_train.errors import ConfigError, DataError, OwnCodeError, UserError
from dist_train.system.stop_signals import Stop
from tests.unit.dist_train.data.files import write_images
from tests.unit.dist_train.data.own.opened import SEED, SETS, configure, opened, train
from tests.unit.dist_train.data.own.sets import CHANGED, SIZE
from tests.unit.dist_train.data.own.test_sources import assert_same, join, leaves

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def refusal(name: str, **other: Any) -> str:
    """What is said when the data are opened, or else when they are read."""
    with pytest.raises(UserError) as caught:
        train(configure(name, **other))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "other", "complaint"),
    [
        ("Stream", {}, "Stream yields samples in its own order.*index"),
        ("WithoutLength", {}, r"WithoutLength \(.*sets\.py, line \d+\) has no __len__"),
        ("WithoutItems", {}, r"WithoutItems \(.*sets\.py, line \d+\) has no __getitem__"),
        *(
            ("WrongLength", {"length": length}, f"returns {length!r}; it must be a whole number above 0")
            for length in (0, -1, 2.5, None, "3", 10**13, 10**30)
        ),
        ("Unfinished", {}, r"Unfinished \(.*sets\.py, line \d+\) has no __getitem__"),
        *(
            ("Unusable", {"kind": kind, **how}, "split train: .*" + what)
            for kind, what in (
                ("meta", "on the device meta"),
                ("sparse", "of the layout sparse_coo"),
                ("nested", "nested"),
                ("jagged", "nested"),
                ("quantized", "quantized"),
                ("endless", "nested too deeply, or holds itself"),
            )
            for how in ({}, {"deep": True}, {"collate": "take_first"})
        ),
        (
            "OtherClasses",
            {"test_classes": ["cat", "emu"]},
            "its split test has the classes cat, emu, and train has cat, ",
        ),
        ("OtherClasses", {"test_classes": ["dog", "cat", "emu"]}, "a label must mean the same in all splits"),
        ("Shrinks", {}, "its length was 11 and is 10 now"),
        ("without_split", {}, "takes no argument `split`"),
        ("splits", {"names": ["test"]}, "splits named test, and train is missing"),
        ("splits", {"names": ["train"]}, "no split test, and so nothing to evaluate"),
        ("splits", {"names": ["train", "test"], "validation": "split"}, "validation is missing; set data.validation"),
        ("Lengths", {}, r"item \d+: the input is float32 \[\d\], and that of another .*data\.collate"),
        ("Lengths", {"loader": "in_memory", "collate": "pad"}, "data.loader=in_memory: .* must have one"),
        ("Items", {"kind": "float32", "sizes": 3}, "has no argument sizes; did you mean size"),
        ("Items", {}, "needs the argument kind"),
        ("DTYPES", {}, "is a tuple, and no class or function"),
        ("Itmes", {}, "has no Itmes"),
    ],
)
def test_what_is_no_data_set_is_refused(name: str, other: dict[str, Any], complaint: str) -> None:
    found = refusal(name, **other)
    assert re.search(complaint, found), found
    assert f"data.name {SETS}:{name}" in found or f"{SETS}" in found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", CHANGED)
def test_an_item_of_another_structure_is_named(change: str, workers: int) -> None:
    for at in (0, 5, SIZE - 1):
        found = refusal("Changes", change=change, at=at, workers=workers, global_batch=SIZE)
        assert re.search(r"split (train|test): item \d+", found), found
        assert "data.collate" in found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("label", [-1, 3, 10**6])
def test_a_label_of_no_class_is_named(label: int, workers: int) -> None:
    found = refusal("Mislabelled", label=label, workers=workers)
    assert f"item 5 has the label {label}, but there are 3 classes, 0 to 2" in found
    assert ("loss.args.ignore_index=-1 leaves out" in found) == (label < 0)


def test_a_label_that_the_loss_leaves_out_is_no_fault() -> None:
    config = configure("Mislabelled", label=-100, global_batch=SIZE)
    dataset = open_dataset(config, SEED, World(), ignored_label=-100)
    assert -100 in dataset.train.read(torch.arange(len(dataset.train)), 0, [SIZE])[0][1]
    other = configure("Mislabelled", label=-1, global_batch=SIZE)
    with pytest.raises(DataError, match="item 5 has the label -1"):
        open_dataset(other, SEED, World(), ignored_label=-100)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("at", "error"), [(0, "KeyError"), (10, "KeyError"), (3, "SystemExit"), (3, "BaseException")])
def test_an_exception_of_the_users_is_shown_as_hers(at: int, error: str, workers: int) -> None:
    with pytest.raises(OwnCodeError) as caught:
        train(configure("Fails", at=at, error=error, workers=workers))
    text = str(caught.value)
    assert f"split train: item {at}, read by rank 0" in text
    assert "sets.py" in text
    assert text.endswith("KeyError: 'missing'" if error == "KeyError" else f"{error}: missing")
    assert "data/own/items.py" not in text
    if at == 3 and workers:
        assert re.search("rank 0, worker [01],", text)


def test_an_item_may_be_read_by_a_pool_of_the_rank_but_not_of_a_worker() -> None:
    with Stop.install() as stop:  # a fork would ignore the signal that ends a pool
        stop.begin_steps()
        assert len(train(configure("Pooled"), steps=(0, 1))) == 1
        with pytest.raises(OwnCodeError, match=r"(?s)worker 0,.*daemonic processes are not allowed to have children"):
            train(configure("Pooled", workers=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_can_not_be_pickled_is_read(workers: int) -> None:
    """Workers are forked, so that nothing is sent to them."""
    assert len(train(configure("Unpicklable", workers=workers))) == 6


def test_an_item_that_differs_when_read_twice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = opened(configure("OwnGenerator"))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "split train: item 0 differs when it is read twice with the same seed" in told[0]
    assert dataset.identity.splits["train"].files == ""


@pytest.mark.parametrize("name", ["splits", "Items"])
def test_splits_are_those_asked_for(name: str) -> None:
    other: dict[str, Any] = {} if name == "splits" else {"kind": "float32"}
    dataset = opened(configure(name, **other))
    assert (len(dataset.train), dataset.validation, len(dataset.test or ())) == (SIZE, None, SIZE)
    dataset = opened(configure(name, validation="split", **other))
    assert dataset.validation is not None
    assert [samples.split for samples in dataset.held_out] == ["validation", "test"]
    dataset = opened(configure(name, validation=0.3, limit_train=10, limit_test=4, **other))
    assert dataset.validation is not None
    assert (len(dataset.train), len(dataset.validation), len(dataset.test or ())) == (7, 3, 4)
    numbers = [*dataset.train.indices.tolist(), *dataset.validation.indices.tolist()]
    assert len(set(numbers)) == 10


def test_splits_without_test_need_a_validation() -> None:
    dataset = opened(configure("splits", names=["train"], validation=0.3))
    assert dataset.test is None
    assert [samples.split for samples in dataset.held_out] == ["validation"]


@pytest.mark.parametrize(("two", "keys"), [(False, None), (True, ["image", "mask"])])
def test_a_dict_with_a_label_is_a_pair(two: bool, keys: list[str] | None) -> None:
    (batch,) = train(configure("Features", two=two), steps=(0, 1))
    whole = batch.shards[0].passes[0]
    assert (list(whole.inputs) == keys) if keys else torch.is_tensor(whole.inputs)
    assert whole.targets.tolist() == [number % 3 for number in batch.samples.tolist()]


@pytest.mark.parametrize("name", ["Items", "tensors", "Features", "Labelled", "splits"])
def test_each_split_can_be_opened_alone(name: str) -> None:
    """With no more than what the run has stored, and the same samples."""
    config = configure(name, validation=0.3, **({"kind": "float32"} if name == "Items" else {}))
    dataset = opened(config)
    stored = DataIdentity.from_dict(dataset.identity.to_dict())
    assert stored == dataset.identity
    for split in ("train", "validation", "test"):
        alone = open_split(config, SEED, World(), split, stored)
        expected = getattr(dataset, split)
        assert torch.equal(alone.samples.indices, expected.indices)
        assert compare(stored.restrict(alone.identity.splits), alone.identity, "then", "now") == []
    with pytest.raises(DataError, match="this run has none"):
        open_split(config.model_copy(update={"validation": 0.0}), SEED, World(), "validation", stored)


def test_an_identity_tells_what_has_changed() -> None:
    def identity(name: str = "Labelled", **other: Any) -> DataIdentity:
        return opened(configure(name, **other)).identity

    first = identity()
    for other, words in (
        (identity(size=SIZE + 1), ["train samples: 11 then, 12 now", "train data"]),
        (identity(kind="float64"), ["samples: (float32 [2, 3], int64 []) then, (float64 [2, 3], int64 []) now"]),
        (identity("Items", kind="float32"), ["classes: cat, dog, emu only then, none only now"]),
        (identity("Changes", change="shape", at=SIZE + 1), ["classes"]),
    ):
        found = "\n".join(compare(first, other, "then", "now"))
        assert all(word in found for word in words), found
    assert identity("Features").splits["train"].files == "fingerprint of train"


def test_a_collate_must_make_a_pair() -> None:
    with pytest.raises(DataError, match=r"data\.collate .*sets\.py:count: must return a pair"):
        opened(configure("Lengths", collate="count"))
    with pytest.raises(OwnCodeError, match=r"(?s)data\.collate .*items 0, by rank 0.*ZeroDivisionError"):
        opened(configure("Lengths", collate="divide"))
    with pytest.raises(ConfigError, match="is of the type int, and no function"):
        opened(configure("Lengths", collate="SIZE"))


@pytest.mark.parametrize("tensors", [False, True])
def test_the_image_folder_of_torchvision_is_read(root: Path, tensors: bool) -> None:
    write_images(root)
    config = configure("folder", root=str(root), tensors=tensors, sampling="balanced")
    dataset = opened(config)
    assert (dataset.shape, dataset.classes) == ((3, 8, 10), ("class0", "class1", "class2"))
    alone = train(config)
    assert_same(leaves(train(config.model_copy(update={"workers": 2}))), leaves(alone))
    assert_same(join([train(config, World(rank=rank, size=2)) for rank in range(2)]), leaves(alone))
    labels = torch.arange(3).repeat_interleave(6)
    for batch in alone:
        assert torch.equal(batch.shards[0].passes[0].targets, labels[batch.samples])
        assert 0 <= batch.shards[0].passes[0].inputs.min() <= batch.shards[0].passes[0].inputs.max() <= 1


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("collate", [None, "stack"])
def test_another_size_in_another_split_is_no_change_of_the_data(dimensions: int, collate: str | None) -> None:
    config = configure("OtherSizes", collate=collate, dimensions=dimensions)
    stored = opened(config).identity
    for split in ("train", "test"):
        alone = open_split(config, SEED, World(), split, stored).identity
        assert compare(stored.restrict(alone.splits), alone, "then", "now") == []
    longer = opened(configure("OtherSizes", collate=collate, dimensions=dimensions + 1)).identity
    assert "samples: " in compare(stored.restrict(["test"]), longer.restrict(["test"]), "then", "now")[0]


def test_classes_of_one_name_are_told_apart() -> None:
    assert opened(configure("Namesakes")).classes == ("crane (0)", "dog", "crane (2)")


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_may_be_texts_only(workers: int) -> None:
    (batch, *_) = train(configure("Texts", workers=workers), steps=(0, 1))
    assert [len(text) for text in batch.shards[0].passes[0].inputs] == batch.samples.tolist()


@pytest.mark.parametrize("sampling", ["weighted", "balanced"])
def test_an_attribute_that_raises_is_shown_as_hers(sampling: str) -> None:
    with pytest.raises(
        OwnCodeError, match=r"(?s)attribute \w+ of the data set failed:.*sets\.py.*ZeroDivisionError: in"
    ):
        train(configure("Uncountable", sampling=sampling))
