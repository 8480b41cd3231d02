"""Files that others wrote are read with limits on kind and size."""

import os
import socket
from pathlib import Path

import pytest

from dist_train.system.read_file import parse_object, read_bytes, read_object


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text('{"step": 3}')
    assert read_bytes(path, limit=11) == b'{"step": 3}'
    assert read_object(path) == {"step": 3}


def test_a_larger_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(b"x" * 12)
    with pytest.raises(OSError, match="larger than 11 bytes"):
        read_bytes(path, limit=11)


@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "device", "link to nothing", "link to itself"])
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "status.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(os.path.relpath(path))  # a path of a socket has at most 107 bytes
    else:
        path.symlink_to({"device": "/dev/zero", "link to nothing": "gone", "link to itself": path.name}[kind])
    with pytest.raises(OSError) as caught:  # noqa: PT011 (each kind has its own text)
        read_bytes(path)
    assert caught.value.strerror


@pytest.mark.parametrize("text", [b"", b"[]", b"3", b"\xff", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000])
def test_what_is_not_a_json_object_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_object(text)
