"""Digests of data files are found by content, and read again only when something has changed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_train.data.cache import digests
from dist_train.data.cache.digests import KEPT, find_digest
from dist_train.data.source import FileList, list_files
from dist_train.settings.schema import ImageData
from tests.unit.dist_train.data.files import Settings


@pytest.fixture
def config(settings: Settings) -> ImageData:
    return settings("digits")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 10)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders whose files were read."""
    found: list[str] = []
    compute = FileList.compute_digest

    def count(files: FileList) -> str:
        found.append(files.root)
        return compute(files)

    monkeypatch.setattr(FileList, "compute_digest", count)
    return found


def list_folder(folder: Path) -> FileList:
    return list_files(sorted(folder.iterdir()), folder)


def test_a_second_start_reads_no_file(config: ImageData, folder: Path, reads: list[str]) -> None:
    assert find_digest(config, list_folder(folder)) == find_digest(config, list_folder(folder))
    assert len(reads) == 1


def test_a_copy_has_the_same_digest(config: ImageData, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert find_digest(config, list_folder(folder)) == find_digest(config, list_folder(copy))


def rewrite(path: Path) -> None:
    """Write other bytes of the same number at the same time of modification."""
    before = path.stat()
    path.write_bytes(bytes(reversed(b"0123456789")))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        rewrite,
        lambda path: path.rename(path.with_name("4.bin")),
        lambda path: path.unlink(),
        lambda path: path.with_name("4.bin").touch(),
    ],
    ids=["content", "name", "gone", "one more"],
)
def test_other_files_have_another_digest(config: ImageData, folder: Path, change: Callable[[Path], object]) -> None:
    before = find_digest(config, list_folder(folder))
    change(folder / "1.bin")
    assert find_digest(config, list_folder(folder)) != before


def test_a_damaged_or_missing_record_is_computed_again(config: ImageData, folder: Path, reads: list[str]) -> None:
    before = find_digest(config, list_folder(folder))
    (record,) = Path(config.cache).glob("*.digests.json")
    for content in ("", "[]", record.read_text().replace(before, "0" * 64)):
        record.write_text(content)
        assert find_digest(config, list_folder(folder)) == before
    assert len(reads) == 4


def test_the_record_does_not_grow(config: ImageData, folder: Path) -> None:
    for _ in range(KEPT + 3):
        rewrite(folder / "0.bin")
        (folder / "1.bin").write_bytes(os.urandom(10))
        find_digest(config, list_folder(folder))
    (record,) = Path(config.cache).glob("*.digests.json")
    assert len(digests._read(record)) == KEPT


def test_a_cache_that_cannot_be_written_is_no_obstacle(config: ImageData, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    elsewhere = config.model_copy(update={"cache": str(tmp_path / "file" / "cache")})
    assert find_digest(elsewhere, list_folder(folder)) == find_digest(config, list_folder(folder))
