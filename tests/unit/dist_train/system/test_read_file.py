"""Files that others wrote are read with limits on kind and size."""

import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from dist_train.system.read_file import (
    explain,
    find_files,
    is_file,
    list_directory,
    may_exist,
    parse_object,
    parse_record,
    read_bytes,
    read_object,
)


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


@dataclass(frozen=True)
class _Record:
    name: str
    count: int
    kind: Literal["a", "b"]
    rate: float | None = None
    ranks: list[int] = field(default_factory=list)


GOOD: dict[str, Any] = {"name": "x", "count": 3, "kind": "a"}


@pytest.mark.parametrize("more", [{}, {"rate": 1}, {"rate": 0.5, "ranks": [1, 2]}, {"kind": "b", "rate": None}])
def test_a_record_is_read(more: dict[str, Any]) -> None:
    assert parse_record(_Record, json.dumps(GOOD | more)) == _Record(**GOOD | more)


WRONG: dict[str, list[Any]] = {
    "name": [None, [], {}, 1.5, True, 1, "\0", ["x"]],
    "count": [None, [], {}, 1.5, True, "3", 2**63, -(2**63), 10**400, float("inf"), 3.0],
    "kind": [None, [], {}, 1.5, True, "c", "", 1, ["a"]],
    "rate": [float("nan"), float("inf"), "1", 10**309, True, []],
    "ranks": [1, ["1"], {"a": 1}, None, [None]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_of_another_type_is_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{key} is "):
        parse_record(_Record, json.dumps(GOOD | {key: value}))


@pytest.mark.parametrize("record", [{"name": "x", "count": 3}, {**GOOD, "more": 1}])
def test_missing_and_other_keys_are_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"missing|unexpected"):
        parse_record(_Record, json.dumps(record))


def test_what_may_exist_is_all_that_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("gone")
    assert may_exist(tmp_path / "file")
    assert may_exist(tmp_path / "dangling")
    assert may_exist(tmp_path / ("a" * 5000))  # can't be looked up
    assert not may_exist(tmp_path / "none")
    assert not may_exist(tmp_path / "file" / "below")
    assert not may_exist(tmp_path / "a\0b")
    assert [is_file(tmp_path / name) for name in ("file", "dangling", "none", "a" * 5000)] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("missing", "meant"),
    [("nest.py", "nets.py"), ("nets.yaml", None), ("zzzzzz.py", None), ("folder/nets.py", None), ("link.py", None)],
)
def test_a_missing_file_is_explained_by_the_one_that_is_meant(tmp_path: Path, missing: str, meant: str | None) -> None:
    (tmp_path / "nets.py").touch()
    (tmp_path / "link.py").symlink_to("gone")
    with pytest.raises(FileNotFoundError) as caught:
        read_bytes(tmp_path / missing)
    hint = f" (did you mean {tmp_path / meant}?)" if meant else ""
    assert explain(caught.value) == f"No such file or directory{hint}"


def test_a_directory_is_listed_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).touch()
    assert list_directory(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert list_directory(tmp_path / "none") == list_directory(tmp_path / "a") == []
    with pytest.raises(OSError, match="too long"):
        list_directory(tmp_path / ("a" * 5000))
    assert find_files(tmp_path / ("a" * 5000)) == []
