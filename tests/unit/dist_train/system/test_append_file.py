"""Appending to files on a full disk, and reading lines backward."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from dist_train.distributed.world import World
from dist_train.monitoring.console import log_to_file, log_to_terminal
from dist_train.monitoring.event_files import EventFiles
from dist_train.monitoring.metrics import read_lines
from dist_train.system import append_file as module
from dist_train.system.append_file import AppendFile, cut_lines, read_lines_backward
from tests.unit.dist_train.monitoring.test_metrics import line, scalars


class Disk:
    """A disk with room for some more bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self._real = room, os.write
        monkeypatch.setattr(os, "write", self._write)

    def _write(self, descriptor: int, content: bytes) -> int:
        if descriptor <= 2:
            return self._real(descriptor, content)
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._real(descriptor, bytes(content[: self.room]))
        self.room -= written
        return written


def test_what_cannot_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, disk = tmp_path / "lines", Disk(monkeypatch, room=8)
    path.write_text("old\n")
    lines = AppendFile(path)
    for text in ("first\n", "second\n", "third\n"):
        lines.write(text)
    assert path.read_text() == "old\nfirst\nse"
    disk.room = 3
    lines.write("fourth\n")
    assert path.read_text() == "old\nfirst\nsecon"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: can't be written: No space left on device; the run continues"
    ]
    disk.room = 1000
    lines.write("")
    assert path.read_text() == "old\nfirst\nsecond\nthird\nfourth\n"
    disk.room = 2
    lines.write("fifth\n")
    assert len(caplog.records) == 2, "the disk was full a second time"
    disk.room = 1000
    lines.close()
    assert path.read_text() == "old\nfirst\nsecond\nthird\nfourth\nfifth\n"


def test_a_disk_that_stays_full_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, room=0)
    lines = AppendFile(tmp_path / "lines")
    lines.write("text")
    lines.sync()
    lines.close()
    assert (tmp_path / "lines").read_bytes() == b""


def test_metrics_and_curves_outlive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, room=50)
    file, curves = AppendFile(tmp_path / "metrics.jsonl"), EventFiles(tmp_path / "tb", 0, [], [])
    for step in (1, 2):
        file.write(json.dumps(line(step)) + "\n")
        curves.write(line(step))
    assert "metrics.jsonl: 218 bytes can't be written: No space left on device" in str(file.missing)
    disk.room = 10**6
    file.write(json.dumps(line(3)) + "\n")
    curves.write(line(3))
    assert file.missing is None
    file.close()
    curves.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [line(1), line(2), line(3)]
    assert [step for step, _ in scalars(tmp_path / "tb")["train/loss"]] == [1, 2, 3]


def test_a_log_on_a_full_disk_is_reported_once_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    root = logging.getLogger("dist_train")
    before = (root.handlers, root.level, root.propagate)
    log_to_terminal(World(), sys.stdout)
    with log_to_file(tmp_path, World(), step=0):
        disk = Disk(monkeypatch, room=0)
        for number in range(3):
            root.info("line %d", number)
        disk.room = 10**6
        root.info("line 3")
    root.handlers, root.level, root.propagate = before
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.count("rank_0.log: can't be written: No space left on device") == 1
    text = (tmp_path / "rank_0.log").read_text()
    assert [f"line {number}" in text for number in range(4)] == [True] * 4
    assert text.count("can't be written") == 1


@pytest.mark.parametrize("block", [1, 2, 3, 64])
@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "\n\nab\n", "ab\n\ncd", "\nab\r\ncd\n\n"])
def test_lines_are_read_from_the_last_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, text: str
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    path = tmp_path / "file"
    path.write_bytes(text.encode())
    expected = text.encode().split(b"\n")
    if not expected[-1]:
        del expected[-1]
    assert list(read_lines_backward(path))[::-1] == expected


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "\n\nab\n", "ab\n\ncd", "\nab\r\ncd\n\n"])
def test_a_file_is_cut_after_any_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, text: str) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    path = tmp_path / "file"
    found = text.encode().split(b"\n")
    if not found[-1]:
        del found[-1]
    for kept in range(len(found) + 1):
        path.write_bytes(text.encode())
        left = iter(range(len(found) - 1, -1, -1))
        cut_lines(path, lambda _, left=left, kept=kept: next(left) < kept)  # type: ignore[misc]
        assert path.read_bytes() == b"".join(line + b"\n" for line in found[:kept])
    cut_lines(path, None)
    assert path.read_bytes() == b""


def test_a_line_without_an_end_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 16)
    monkeypatch.setattr(module, "_LONGEST", 20)
    path = tmp_path / "file"
    path.write_bytes(b"first\nsecond\n" + b"x" * 1000 + b"\nlast")
    lines = list(read_lines_backward(path))
    assert [lines[0], *lines[2:]] == [b"last", b"second", b"first"]
    assert len(lines[1]) < 64
    cut_lines(path, lambda line: line == b"second")
    assert path.read_bytes() == b"first\nsecond\n"


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lines"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    for use in (AppendFile, lambda path: list(read_lines_backward(path)), lambda path: cut_lines(path, bool)):
        with pytest.raises(OSError, match=r"lines|regular"):
            use(path)
