"""The file that a command writes at `-o`: its place is checked first, and it is written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.system.escape import escape
from dist_train.system.read_file import explain, is_file, may_exist


def check_writable(path: Path) -> None:
    """Check, before anything is computed, that a file can be written; raises ConfigError."""
    if may_exist(path) and not is_file(path):
        raise ConfigError(f"-o {escape(path)}: is there and is not a file; choose another name")
    with _explained(path), tempfile.NamedTemporaryFile(dir=_follow(path).parent, prefix=f".{path.name}."):
        pass


@contextmanager
def write_beside(path: Path, content: bytes) -> Iterator[Path]:
    """A block in which a file with this content has a temporary name; it is removed at the end unless it was moved.

    Raises:
        ConfigError: it can't be written.
    """
    aside = _follow(path).with_name(f".{path.name}.{os.getpid()}")
    try:
        with _explained(path):
            aside.write_bytes(content)
        yield aside
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def move(aside: Path, path: Path) -> None:
    """Rename a file to `path`, replacing an existing file; follow a link. Raises ConfigError."""
    with _explained(path):
        aside.replace(_follow(path))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, replacing an existing one; raises ConfigError and keeps the existing one."""
    with write_beside(path, content) as aside:
        move(aside, path)


def _follow(path: Path) -> Path:
    return Path(os.path.realpath(path))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"-o {escape(path)}: can't be written: {explain(error)}; choose a place that you may write"
        ) from error
