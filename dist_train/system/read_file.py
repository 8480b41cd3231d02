"""Read files that other processes or people wrote: a size limit, regular files only, and no wait on a pipe."""

import errno
import json
import os
import stat
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dist_train.system.escape import escape

LIMIT = 16 * 2**20
"""Bytes of the largest file that is read whole by default."""
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_LONGEST_PATH = 4096  # characters that are shown
_MOST_FILES = 1000  # among which the one that was meant is looked for
_T = TypeVar("_T")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting.

    Raises:
        OSError: it can't be opened or is not a regular file; `strerror` says which.
    """
    # Without O_NONBLOCK, opening a named pipe waits until a process writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def open_at_once(path: str, flags: int) -> int:
    """Open as `os.open`, but fail where a named pipe would wait; an `opener` of `open`."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """Read a whole regular file.

    Raises:
        OSError: it can't be read, is not a regular file, or is larger than `limit` bytes; `strerror` says which.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return content


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object; raises ValueError for anything else, deep nesting included."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not text in UTF-8") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """Read a file that holds one JSON object; raises OSError as `read_bytes`, and ValueError as `parse_object`."""
    return parse_object(read_bytes(path, limit))


def parse_record(kind: type[_T], text: str | bytes) -> _T:
    """Parse a JSON object into a dataclass; raises ValueError as `parse_object` and `check_types`, or for its keys."""
    found = parse_object(text)
    check_types(found, kind)
    try:
        return kind(**found)
    except TypeError as error:
        raise ValueError(str(error)) from None


def check_types(found: Mapping[str, Any], kind: type) -> None:
    """Check the values of known keys against the annotations of a dataclass or TypedDict.

    Raises:
        ValueError: names the first key whose value has another type, or is a number that no field can hold.
    """
    for key, hint in _hints(kind).items():
        if key in found and not _fits(found[key], hint):
            raise ValueError(f"{key} is {escape(json.dumps(found[key]), 40)}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if get_origin(hint) is Literal:
        return value in parts
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(each, parts[0]) for each in value)
    if hint is int:
        return type(value) is int and abs(value) < 2**63
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if hint is str:
        return type(value) is str and "\0" not in value
    return hint is Any or type(value) is (NoneType if hint is None else get_origin(hint) or hint)


def list_directory(path: Path) -> list[Path]:
    """List a directory, sorted; empty if there is none. Raises OSError if it can't be listed."""
    try:
        return sorted(path.iterdir())
    except OSError as error:
        if error.errno in _MISSING:
            return []
        raise


def find_files(directory: Path) -> list[Path]:
    """List a directory for files that are only information: empty if it can't be listed."""
    try:
        return list_directory(directory)
    except OSError:
        return []


def may_exist(path: Path) -> bool:
    """Whether a name exists, dangling links included; also True if it can't be looked up: reading it then says why."""
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:
        return getattr(error, "errno", errno.ENOENT) not in _MISSING
    return True


def is_file(path: Path) -> bool:
    """Whether it is a regular file, or a link to one; unlike `Path.is_file` it never raises."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def explain(error: OSError | ValueError) -> str:
    """Return why a file can't be read, in a few words that are safe to show; a missing one gets a similar name."""
    reason = escape(getattr(error, "strerror", None) or error, 200)
    close = _find_close(error.filename) if isinstance(error, FileNotFoundError) else None
    return f"{reason} (did you mean {escape(close, _LONGEST_PATH)}?)" if close else reason


def _find_close(missing: str | bytes | os.PathLike[str] | None) -> Path | None:
    """Find the file in the folder of a missing one whose name is the most like it, None if none is."""
    if missing is None or isinstance(missing, bytes):
        return None
    path = Path(missing)
    try:
        names = [each.name for each in islice(path.parent.iterdir(), _MOST_FILES)]
    except OSError:
        return None
    alike = [name for name in names if name.endswith(path.suffix) and name != path.name]
    return next((path.with_name(name) for name in get_close_matches(path.name, alike, 1)), None)
