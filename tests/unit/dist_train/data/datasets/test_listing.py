"""Pictures are listed once each, and what is passed over is counted."""

import os
from pathlib import Path

import pytest

from dist_train.data.datasets.listing import PassedOver, identify, list_classes, list_pictures

LEFT_BEHIND = (
    *(".DS_Store", "._1.jpg", ".ipynb_checkpoints/1.jpg", ".git/1.jpg", "__MACOSX/1.jpg", "@eaDir/1.jpg", "Thumbs.db"),
    *("desktop.ini", ".Trash-1000/1.jpg", ".nfs000001", "$RECYCLE.BIN/1.jpg", "lost+found/1.jpg"),
)
"""What a Mac, a notebook, a scanner's server or a file system leaves beside pictures."""


def write(folder: Path, *names: str | bytes) -> None:
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(folder: Path, passed: PassedOver | None = None) -> list[str]:
    listed = list_pictures(folder, (".jpg", ".png"), frozenset(), passed or PassedOver())
    return [os.path.relpath(path, folder) for path, _ in listed]


@pytest.mark.parametrize("name", LEFT_BEHIND)
@pytest.mark.parametrize("level", ["", "a/", "a/b/"])
def test_what_systems_leave_is_hidden_at_every_level(tmp_path: Path, name: str, level: str) -> None:
    write(tmp_path, "a/b/1.jpg", level + name)
    passed = PassedOver()
    assert found(tmp_path, passed) == ["a/b/1.jpg"]
    assert passed.hidden == 1
    assert list_classes(tmp_path, PassedOver()) == ("a",)


def test_other_endings_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "1.JPG", "2.Png", "3.txt", "4.heic", "5.HEIC", "6", "sub/7.txt")
    passed = PassedOver()
    assert found(tmp_path, passed) == ["1.JPG", "2.Png"]
    assert str(passed) == "2 .heic, 2 .txt, 1 without an ending"


def test_no_picture_counts_twice_through_links(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "a/b/2.jpg")
    for link, target in (("a/self", "."), ("a/up", ".."), ("a/b/over", "../b"), ("a/again", "b")):
        (tmp_path / link).symlink_to(target)
    passed = PassedOver()
    assert found(tmp_path / "a", passed) == ["1.jpg", "b/2.jpg"]
    assert passed.links == 4


def test_links_to_other_classes_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "other").symlink_to("../b")
    passed = PassedOver()
    listed = list_pictures(tmp_path / "a", (".jpg",), frozenset({identify(tmp_path / "b")}), passed)
    assert [Path(path).name for path, _ in listed] == ["1.jpg"]
    assert passed.links == 1


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.jpg", "\u202egpj.jpg".encode(), b"a\nb.jpg", b"\x1b[2J.jpg", b"a" * 250 + b".jpg"]
)
def test_any_name_of_a_file_is_listed(tmp_path: Path, name: bytes) -> None:
    write(tmp_path, name)
    assert [os.fsencode(path) for path in found(tmp_path)] == [name]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_named_like_a_picture_and_is_none_is_counted(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "2.jpg") if kind == "pipe" else (tmp_path / "2.jpg").mkdir()
    passed = PassedOver()
    assert found(tmp_path, passed) == ["1.jpg"]
    assert passed.endings.total() == (1 if kind == "pipe" else 0)


def test_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").symlink_to("gone")
    with pytest.raises(FileNotFoundError):
        found(tmp_path)
