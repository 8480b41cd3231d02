"""The cache of decoded images: read once, repaired, shared by processes."""

import contextlib
import logging
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dist_train.data import Dataset
from dist_train.data.cache import entries as cache_module
from dist_train.data.cache.location import CacheError
from dist_train.distributed.world import World
from dist_train.settings.schema import ImageData
from tests.unit.dist_train.data.files import (
    Settings,
    cut_short,
    images_of,
    labels_of,
    opened,
    refusal,
    write_idx,
    write_images,
)

# Python 3.12 and later warn at each fork of a process with threads, which torch always has.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def entries(config: ImageData) -> dict[str, Path]:
    return {path.name.split("-")[1]: path for path in Path(config.cache).iterdir() if path.is_dir()}


@pytest.mark.slow
def test_a_warm_start_imports_no_decoder(settings: Settings, root: Path) -> None:
    write_idx(root)
    opened(settings("digits"))
    config = settings("mnist")
    opened(config)
    script = (
        "import sys; from dist_train.settings.schema import StoredData; from dist_train.data import open_dataset; "
        "from dist_train.distributed.world import World; root, cache = sys.argv[1:]; "
        "[open_dataset(StoredData(name=name, root=root, cache=cache), 0, World()) for name in ('mnist', 'digits')]; "
        "print({'torchvision', 'sklearn'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, config.root, config.cache]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


def test_nothing_is_written_into_root(settings: Settings, root: Path) -> None:
    write_images(root)
    write_idx(root)
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    for name in ("image_folder", "mnist"):
        opened(settings(name, root=str(root)))
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, Path.unlink])
@pytest.mark.parametrize("name", ["images.u8", "labels.i64", "meta.json"])
def test_a_damaged_entry_is_written_again(
    settings: Settings, root: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    write_idx(root)
    config = settings("mnist")
    expected = contents(opened(config))
    target = entries(config)["train"] / name
    damage(target)
    for _ in range(2):
        found = contents(opened(config))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    is_missing = (name, damage) == ("meta.json", Path.unlink)  # without it the entry counts as missing
    assert warned == ([] if is_missing else [f"{target} is damaged and will be written again"])
    assert sorted(path.name for path in Path(config.cache).iterdir() if path.name.startswith(".")) == []


def contents(dataset: Dataset) -> tuple[Tensor, Tensor]:
    return images_of(dataset.train).take(dataset.train.indices).clone(), labels_of(dataset.train).clone()


@pytest.fixture
def read_whole(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files of the cache that are read to compare them with their checksum, as it happens."""
    found: list[Path] = []
    original = cache_module._hash_file

    def noted(path: Path) -> str:
        found.append(path)
        return original(path)

    monkeypatch.setattr(cache_module, "_hash_file", noted)
    return found


def test_a_whole_entry_is_not_read_again(settings: Settings, root: Path, read_whole: list[Path]) -> None:
    write_idx(root)
    opened(settings("mnist"))
    read_whole.clear()
    opened(settings("mnist"))
    assert read_whole == []


def changed_behind_its_time(path: Path) -> None:
    """Another byte, and the time of before."""
    status = path.stat()
    flip_a_byte(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchanged(path: Path) -> None:
    """Another file of that name, size and time."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def spoil_json(path: Path) -> None:
    path.with_name("checked.json").write_text("{")


@pytest.mark.parametrize("change", [Path.touch, changed_behind_its_time, exchanged, spoil_json])
def test_an_entry_that_looks_different_is_read_once(
    settings: Settings, root: Path, read_whole: list[Path], change: Callable[[Path], None]
) -> None:
    write_idx(root)
    config = settings("mnist")
    expected = contents(opened(config))
    images = entries(config)["train"] / "images.u8"
    change(images)
    read_whole.clear()
    for _ in range(2):
        assert all(torch.equal(one, other) for one, other in zip(contents(opened(config)), expected, strict=True))
    assert read_whole.count(images) == (3 if change is changed_behind_its_time else 1)  # and twice to repair it
    read_whole.clear()
    opened(config)
    assert read_whole == []


def test_a_copied_cache_is_read_once(settings: Settings, root: Path, tmp_path: Path, read_whole: list[Path]) -> None:
    write_idx(root)
    opened(settings("mnist"))
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    for expected in (True, False):
        read_whole.clear()
        opened(settings("mnist", cache=str(tmp_path / "copy")))
        assert bool(read_whole) == expected


def test_an_entry_in_a_cache_that_cannot_be_written_is_read_at_each_start(
    settings: Settings, root: Path, read_whole: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(root)
    config = settings("mnist")
    opened(config)
    for path in Path(config.cache).glob("*/checked.json"):
        path.unlink()

    @contextlib.contextmanager
    def refuse(*_: object) -> Iterator[None]:
        raise CacheError("data.cache: cannot write")
        yield

    monkeypatch.setattr(cache_module, "lock", refuse)
    for _ in range(2):
        read_whole.clear()
        opened(config)
        assert {path.name for path in read_whole} == {"images.u8", "labels.i64"}


def test_damage_is_repaired_under_ranks_that_have_opened_it(settings: Settings, root: Path) -> None:
    """Only local rank 0 compares the images with their checksum."""
    write_idx(root)
    config = settings("mnist")
    expected, _ = contents(opened(config))
    flip_a_byte(entries(config)["train"] / "images.u8")
    other = opened(config, World(rank=1, size=2, local_rank=1, local_size=2))
    assert not torch.equal(contents(other)[0], expected)
    opened(config, World(rank=0, size=2, local_rank=0, local_size=2))
    assert torch.equal(contents(other)[0], expected)


def test_damaged_statistics_are_computed_again(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    config = settings("digits")
    expected = opened(config).normalize
    (statistics_file,) = Path(config.cache).glob("*.statistics.json")
    statistics_file.write_text(statistics_file.read_text().replace("0.", "1.", 1))
    assert opened(config).normalize == expected
    assert str(statistics_file) in caplog.text


def test_changed_files_are_another_entry(settings: Settings, root: Path) -> None:
    write_images(root)
    config = settings("image_folder")
    before = opened(config)
    Image.new("RGB", (10, 8), (1, 2, 3)).save(root / "train" / "class0" / "0.png")
    after = opened(config)
    assert before.normalize != after.normalize
    assert images_of(after.train).take(torch.tensor([0])).flatten(2)[0, :, 0].tolist() == [1, 2, 3]
    assert opened(settings("image_folder", resize=4)).shape == (3, 4, 4)


def test_an_unwritable_cache_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "set data.cache to a directory" in refusal(settings("digits", cache=str(tmp_path / "file" / "cache")))


def test_a_cache_without_room_says_why_and_keeps_no_part(settings: Settings) -> None:
    config = settings("digits")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))  # bytes; the images have more
    try:
        said = refusal(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "data.cache: cannot write under" in said
    assert "File too large" in said
    assert [path.name for path in Path(config.cache).iterdir() if path.is_dir()] == []
    opened(config)


def open_in_process(config: ImageData, log: str, together: Barrier) -> None:
    torch.set_num_threads(1)  # OpenMP does not survive a fork
    logging.basicConfig(filename=log, level=logging.INFO, force=True)
    together.wait()
    opened(config)


@pytest.mark.slow
def test_concurrent_processes_decode_once(settings: Settings, root: Path, tmp_path: Path) -> None:
    write_images(root, each=200)
    config, log = settings("image_folder", loader="in_memory"), tmp_path / "log"
    context = multiprocessing.get_context("fork")
    together = context.Barrier(3)
    processes = [context.Process(target=open_in_process, args=(config, str(log), together)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text().count("decoding image_folder-train") == 1
    assert log.read_text().count("decoding image_folder-test") == 1
