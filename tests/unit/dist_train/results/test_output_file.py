"""Files of `-o` are written whole or not at all, and their place is checked first."""

import os
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from dist_train.results.output_file import check_writable, move, write_beside, write_whole


def test_what_is_no_file_or_has_no_place_is_refused_and_stays(tmp_path: Path) -> None:
    folder, pipe, loop = (tmp_path / name for name in ("folder", "pipe", "loop"))
    folder.mkdir()
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path, why in (
        (folder, "is not a file"),
        (pipe, "is not a file"),
        (loop, "is not a file"),
        (Path("/dev/null"), "is not a file"),
        (tmp_path / "nothing" / "a", "can't be written: No such file or directory"),
        (pipe / "a", "can't be written: Not a directory"),
        (tmp_path / ("x" * 250), "can't be written: File name too long"),
    ):
        with pytest.raises(ConfigError, match=why):
            check_writable(path)
    assert sorted(tmp_path.iterdir()) == sorted([folder, pipe, loop])


def test_a_file_replaces_another_and_a_link_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    path.write_text("before")
    link.symlink_to("a")
    check_writable(link)
    write_whole(link, b"after")
    assert (link.is_symlink(), path.read_text()) == (True, "after")
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_one_that_is_not_moved_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    with write_beside(path, b"after") as aside:
        assert aside.read_text() == "after"
    with pytest.raises(ZeroDivisionError), write_beside(path, b"after"):
        _ = 1 / 0
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with (
        pytest.raises(ConfigError, match="a: can't be written: No space left on device"),
        write_beside(path, b"") as it,
    ):
        move(it, path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["before"]
