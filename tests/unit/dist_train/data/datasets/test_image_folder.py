"""Images in folders: reading, and messages for folders and files that are not as they should be."""

import io
import multiprocessing
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dist_train.data import Dataset, statistics
from dist_train.data.datasets import image_folder, picture
from dist_train.data.datasets.picture import ENDINGS
from dist_train.data.datasets.pixels import Pixels
from dist_train.distributed.world import World
from dist_train.settings.schema import Normalize
from tests.unit.dist_train.data.files import (
    Settings,
    Trained,
    held_out,
    images_of,
    labels_of,
    opened,
    refusal,
    trained,
    write_images,
)

# Python 3.12 and later warn at each fork of a process with threads, which torch always has.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_image_folder_reads_as_torchvision(settings: Settings, root: Path) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    write_images(root)
    for number, name in enumerate("zmakbq"):
        deeper = root / "train" / "class1" / name
        deeper.mkdir()
        Image.new("L", (10, 8), 7 * number).save(deeper / "GREY.JPG")
    (root / "train" / "class1" / "notes.txt").write_text("no image")
    theirs = ImageFolder(str(root / "train"))
    dataset = opened(settings("image_folder"))
    assert list(dataset.classes) == theirs.classes
    assert labels_of(dataset.train).tolist() == theirs.targets
    pixels = np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in theirs])
    assert np.array_equal(images_of(dataset.train).take(dataset.train.indices).numpy(), pixels)
    assert set(IMG_EXTENSIONS) < set(ENDINGS)


@pytest.mark.parametrize("size", [(8, 10), (10, 8), (6, 6)])
def test_resize_cuts_the_middle_square_and_scales_it(size: tuple[int, int], root: Path, settings: Settings) -> None:
    write_images(root, size=size)
    dataset = opened(settings("image_folder", resize=6))
    first, shorter = Image.open(root / "train" / "class0" / "0.png"), min(size)
    left, top = (first.width - shorter) // 2, (first.height - shorter) // 2
    square = first.crop((left, top, left + shorter, top + shorter))
    expected = np.asarray(square.resize((6, 6), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert dataset.shape == (3, 6, 6)
    found = images_of(dataset.train).take(torch.tensor([0]))[0].numpy()
    assert abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("is_terminal", [True, False])
def test_decoding_shows_how_far_it_is_on_a_terminal_only(
    settings: Settings, root: Path, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(root)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    opened(settings("image_folder"))
    assert ("decoding:   0%|" in terminal.getvalue()) == is_terminal
    assert bool(terminal.getvalue()) == is_terminal


def test_workers_decode_nothing_ahead(settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(root)
    config = settings("image_folder", loader="workers", normalize=Normalize(mean=(0.5,) * 3, std=(0.2,) * 3))
    decoded: list[str] = []

    def recorded(path: str, side: int | None, orientation: str) -> Pixels:
        decoded.append(path)
        return picture.decode(path, side, orientation)

    monkeypatch.setattr(image_folder, "decode", recorded)
    dataset = opened(config)
    assert dataset.loader == "workers"
    assert len(decoded) == 2  # the first of each split, for the shape
    assert sorted(path.name for path in Path(config.cache).iterdir()) == [
        "image_folder.digests.json", "image_folder.lock",
    ]  # fmt: skip


def break_folders(root: Path, what: str) -> Path:
    """Break one thing in the layout; returns the path that has to be named."""
    victim = {"split": root / "test", "no_class": root / "train", "class": root / "test" / "class2"}.get(
        what, root / "train" / "class1"
    )
    shutil.rmtree(victim)
    if what in ("no_class", "empty"):
        victim.mkdir()
        (victim / "readme.txt").write_text("")
    if what == "one_sided":
        return victim.parent.parent
    return victim


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("split", "is not a folder; data.root must hold train/<class>/"),
        ("no_class", "holds no folder of a class"),
        ("empty", "holds no image (.jpg"),
        ("one_sided", "train and test hold different classes: only one of them has test class1"),
    ],
)
def test_bad_folders(settings: Settings, root: Path, what: str, complaint: str) -> None:
    write_images(root)
    named = break_folders(root, what)
    message = refusal(settings("image_folder"))
    assert complaint in message
    assert str(named) in message


@pytest.mark.parametrize(
    "kind", [{"loader": "in_memory"}, {"loader": "workers", "workers": 0}, {"loader": "workers", "workers": 2}]
)
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nxxxx", None])
def test_a_corrupt_image_is_named(settings: Settings, root: Path, kind: dict[str, Any], content: bytes | None) -> None:
    """Also where a worker finds it; None: the file is cut in the middle."""
    write_images(root)
    path = root / "train" / "class2" / "4.png"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    given = Normalize(mean=(0.5,) * 3, std=(0.2,) * 3)
    message = refusal(settings("image_folder", normalize=given, **kind))
    assert message.startswith(f"{path}: is not a readable image (")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("loader", ["in_memory", "workers"])
def test_images_of_different_sizes(settings: Settings, root: Path, loader: str) -> None:
    write_images(root)
    path = root / "train" / "class1" / "2.png"
    Image.new("RGB", (30, 20)).save(path)
    message = refusal(settings("image_folder", loader=loader))
    first = root / "train" / "class0" / "0.png"
    assert message.startswith(f"{path} is 30x20 and {first} is 10x8 pixels (width x height); set data.resize")
    assert opened(settings("image_folder", loader=loader, resize=8)).shape == (3, 8, 8)


def test_test_images_of_another_size(settings: Settings, root: Path, tmp_path: Path) -> None:
    write_images(root)
    write_images(tmp_path / "other", size=(5, 5))
    shutil.rmtree(root / "test")
    shutil.move(tmp_path / "other" / "test", root / "test")
    message = refusal(settings("image_folder"))
    assert "8 x 10 pixels (height x width), of test 3 channels, 5 x 5" in message
    assert "set data.resize" in message


def test_a_dangling_link_is_named(settings: Settings, root: Path) -> None:
    write_images(root)
    link = root / "train" / "class0" / "link.png"
    link.symlink_to(root / "nowhere.png")
    assert str(link) in refusal(settings("image_folder"))


@pytest.mark.slow
@pytest.mark.parametrize("real", ["cifar10-images"], indirect=True)
def test_real_image_folder(settings: Settings, real: str) -> None:
    config = settings(
        "image_folder", root=f"{real}/cifar10-images", loader="workers", global_batch=128, limit_test=600,
        normalize=statistics.KNOWN["cifar10"],
    )  # fmt: skip
    dataset = opened(config)
    assert (len(dataset.train), len(held_out(dataset)), dataset.shape) == (50000, 600, (3, 32, 32))
    assert torch.bincount(labels_of(held_out(dataset))).tolist() == [60] * 10
    batches = trained(dataset, config, World(), 390, 392)
    assert [(batch.count, batch.epoch) for batch in batches] == [(80, 0), (128, 1)]
    first = Image.open(io.BytesIO(Path(image_path(dataset, batches[0])).read_bytes()))
    pixels = torch.from_numpy(np.asarray(first).transpose(2, 0, 1).copy()) / 255
    assert dataset.normalize
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (dataset.normalize.mean, dataset.normalize.std))
    torch.testing.assert_close(batches[0].images[0], (pixels - mean) / std, atol=1e-5, rtol=0)


def image_path(dataset: Dataset, batch: Trained) -> str:
    images = images_of(dataset.train)
    assert isinstance(images, image_folder.ImageFiles)
    return images.paths[int(batch.indices[0])]
