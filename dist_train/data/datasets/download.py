"""Find the files of a data set, unpack or download them, or report where they belong."""

import gzip
import logging
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from dist_train.data.cache.lock import lock
from dist_train.errors import DataError
from dist_train.settings.schema import ImageData
from dist_train.system.escape import escape

if TYPE_CHECKING:
    from _typeshed import SupportsRead

SILENCE = 30.0
"""Seconds without an answer after which a download fails."""

_log = logging.getLogger("dist_train.data")


@dataclass(frozen=True)
class DataFiles:
    """Files of a data set that torchvision can download."""

    loader: str
    """Class in `torchvision.datasets`."""
    folder: str
    """Their folder under `data.root`."""
    names: tuple[str, ...]
    archive: str = ""
    """Name of the tar file in which they are published; "" if each is published by itself, as `<name>.gz`."""


def require(files: DataFiles, config: ImageData) -> Path:
    """Return the folder under `data.root` that holds all files.

    Missing ones are unpacked from archives that lie there, else downloaded if `data.download` allows it.

    Raises:
        DataError: an archive is damaged; or files are missing, and downloading is off or failed.
    """
    folder = Path(config.root) / files.folder
    if not _list_missing(files, folder):
        return folder
    with lock(Path(config.cache), config.name):
        _unpack(files, config, folder)
        if _list_missing(files, folder):
            if not config.download:
                raise _missing_files_error(files, config, "data.download is off")
            _download(files, config, folder)
    return folder


def _unpack(files: DataFiles, config: ImageData, folder: Path) -> None:
    """Unpack missing files from archives in their folder or in `data.root`, as their publishers name them."""
    root = Path(config.root)
    for name in _list_missing(files, folder):
        for path in (folder / f"{name}.gz", root / f"{name}.gz"):
            if path.is_file() and not (folder / name).is_file():
                with _checked(path), gzip.open(path) as content:
                    _write(content, folder / name)
    for path in (root / files.archive, folder / files.archive):
        if files.archive and path.is_file() and _list_missing(files, folder):
            _log.info("unpacking %s", escape(path))
            with _checked(path), tarfile.open(path) as archive:
                for name in _list_missing(files, folder):
                    member = archive.extractfile(f"{files.folder}/{name}")
                    if member is None:
                        raise KeyError(f"{name} is not a file in it")
                    _write(member, folder / name)


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Read a gzip file to its checksum at the end; raise its damage, and that found in the block, as DataError."""
    try:
        with gzip.open(path) as content:
            if not content.read(2**20):
                raise EOFError("it is empty")
            while content.read(2**20):
                pass
        yield
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{escape(path)}: can't be unpacked ({escape(error)}). If it is damaged, put the original there"
        ) from error


def _write(content: "SupportsRead[bytes]", path: Path) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    try:
        with aside.open("wb") as file:
            shutil.copyfileobj(content, file)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _list_missing(files: DataFiles, folder: Path) -> list[str]:
    return [name for name in files.names if not (folder / name).is_file()]


def _download(files: DataFiles, config: ImageData, folder: Path) -> None:
    """Download into a temporary folder and move complete files: an incomplete file is never found."""
    from torchvision import datasets

    _log.info("downloading %s to %s", config.name, folder)
    try:
        root = Path(config.root)
        root.mkdir(parents=True, exist_ok=True)
        prefix = f".download-{config.name}-"
        for left in root.glob(f"{prefix}*"):  # of a killed process: this one holds the lock
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=root) as aside, time_out_connections():
            # The class checks what it downloaded against the checksums of the original files.
            getattr(datasets, files.loader)(aside, download=True)
            folder.mkdir(parents=True, exist_ok=True)
            for name in _list_missing(files, folder):
                shutil.move(Path(aside) / files.folder / name, folder / name)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise _missing_files_error(files, config, f"they could not be downloaded ({reason})") from error


@contextmanager
def time_out_connections() -> Iterator[None]:
    """Set a timeout for connections; torchvision sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _missing_files_error(files: DataFiles, config: ImageData, reason: str) -> DataError:
    folder = Path(config.root) / files.folder
    return DataError(
        f"data.name {config.name}: {folder} lacks {', '.join(_list_missing(files, folder))}, and {reason}. Put the "
        f"files there, or set data.root (or the variable DIST_TRAIN_DATA) to the directory that holds {files.folder}"
    )
