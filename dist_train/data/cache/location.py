"""Where the cache is, and who else can write there.

If other users can write to the cache directory, each user gets a private folder in it.
"""

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_train.errors import DataError
from dist_train.settings.loading.defaults import find_default_cache
from dist_train.system.escape import escape

MAX_LINKS = 40
"""Symbolic links in a path, as in Linux."""

_log = logging.getLogger("dist_train.data")


class CacheError(DataError):
    """The cache can't be written."""


@contextmanager
def report_write_errors(directory: Path) -> Iterator[None]:
    """Raise OSErrors of the block as CacheError."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"data.cache: cannot write under {escape(directory)} ({escape(error)}); set data.cache to a directory that "
            "can be written and has room"
        ) from error


def choose_directory(cache: Path) -> Path:
    """Return the directory for the entries of this user: `cache`, or a folder in it if others can write there.

    Raises:
        DataError: the path has a symbolic link that another user can change, or the folder belongs to another user.
        CacheError: the cache can't be reached.
    """
    cache = cache.absolute()
    with report_write_errors(cache):
        _refuse_foreign_links(cache)
        existing = next(path for path in (cache, *cache.parents) if path.exists())
        chosen = cache
        if existing == cache and _is_writable_by_others(cache.stat()):
            chosen = make_private(cache / f"user-{os.getuid()}")
            _log.info("data.cache: others can write in %s: this user's entries are in %s", escape(cache), chosen.name)
        if trusted := _find_replaceable(existing):
            _log.warning("data.cache: other users can change %s: what the cache holds is trusted", escape(trusted))
    return chosen


def choose_fallback(cache: Path) -> Path | None:
    """Return a private directory for temporary files if `cache` is the default; None if the user has named it.

    Raises:
        DataError: the directory belongs to another user.
        CacheError: it can't be written either.
    """
    if str(cache) != find_default_cache(os.environ):
        return None
    with report_write_errors(cache):
        return make_private(Path(tempfile.gettempdir()) / f"dist-train-{os.getuid()}")


def make_private(directory: Path) -> Path:
    """Make a directory that only this user can write, or check that it is one; return it.

    Raises:
        DataError: it is no directory, or another user can write there.
        OSError: it can't be made.
    """
    make_directories(directory)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or _is_writable_by_others(found):
        raise DataError(
            f"data.cache: {escape(directory)} is not a directory that only this user can write; set data.cache to one "
            "of your own"
        )
    return directory


def make_directories(directory: Path) -> None:
    """Make a directory and its parents, for this user only at any umask."""
    for path in (*reversed(directory.parents), directory):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)


def _is_writable_by_others(found: os.stat_result) -> bool:
    """Whether users other than the owner can write; a group with the number of its only user counts as that user."""
    is_own_group = found.st_gid == os.getgid() == os.getuid()
    return bool(found.st_mode & (stat.S_IWOTH if is_own_group else stat.S_IWOTH | stat.S_IWGRP))


def _find_replaceable(directory: Path) -> Path | None:
    """Return the first directory of a path whose entries others can replace: foreign, or shared and not sticky."""
    for path in (*reversed(directory.parents), directory):
        found = path.stat()
        is_shared = _is_writable_by_others(found) and not found.st_mode & stat.S_ISVTX
        if is_shared or found.st_uid not in (0, os.getuid()):
            return path
    return None


def _refuse_foreign_links(path: Path, followed: int = 0) -> None:
    """Refuse symbolic links that belong to another user, in a directory that others can write."""
    for part in (*reversed(path.parents), path):
        if not part.is_symlink():
            continue
        if part.lstat().st_uid not in (0, os.getuid()) and _is_writable_by_others(part.parent.stat()):
            raise DataError(
                f"data.cache: {escape(part)} is a symbolic link of another user, in a directory that others can "
                "write; set data.cache to a directory of your own"
            )
        if followed < MAX_LINKS:
            rest = path.relative_to(part)
            _refuse_foreign_links(Path(os.path.normpath(part.parent / part.readlink())) / rest, followed + 1)
        return
