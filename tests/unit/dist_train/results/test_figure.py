"""Pictures are written whole or not at all, in three formats, whatever names are in them."""

import sys
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from dist_train.results.figure import check_destination, draw_figure, to_drawable


def draw(path: Path, text: str = "text") -> None:
    with draw_figure(path, 2, 1) as figure:
        figure.text(0, 0.5, text)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".SVG", b"<?xml"), (".pdf", b"%PDF")])
def test_a_picture_replaces_the_file_of_its_name_and_the_same_one_has_the_same_bytes(
    tmp_path: Path, suffix: str, start: bytes
) -> None:
    path, link = tmp_path / f"a{suffix}", tmp_path / f"link{suffix}"
    path.write_text("before")
    link.symlink_to(path)
    draw(link)
    first = path.read_bytes()
    assert first.startswith(start)
    draw(path)
    assert path.read_bytes() == first
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == sorted([path, link])


@pytest.mark.parametrize("name", ["a.gif", "png", "a.png.txt"])
def test_a_name_without_the_ending_of_a_picture_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.png, \.svg or \.pdf"):
        draw(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_drawing_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), draw_figure(path, 1, 1):
        _ = 1 / 0
    assert [each.read_text() for each in tmp_path.iterdir()] == ["before"]


def test_without_matplotlib_the_message_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    check_destination(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"matplotlib: .*pip install 'dist-train\[plot\]'"):
        draw(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("кошка Ünï $x^2$ a_b", "кошка Ünï $x^2$ a_b"),
        ("猫", "\\u732b"),
        ("a\nb\x1b[1m\u202e", "a\\nb\\x1b[1m\\u202e"),
        ("\udcff", "\\udcff"),
        ("x" * 99, "xxxxxxxxxxxxxxx...xxxxxxxxxxxxxxx"),
    ],
)
def test_foreign_text_is_drawn_without_a_warning(tmp_path: Path, text: str, shown: str) -> None:
    assert to_drawable(text, 30) == shown
    for suffix in (".png", ".svg"):
        draw(tmp_path / f"a{suffix}", to_drawable(text, 30))
