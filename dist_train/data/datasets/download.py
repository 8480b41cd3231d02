"""Files that a data set needs: there, or downloaded, or refused with where they belong."""

import logging
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from dist_train.data import cache
from dist_train.errors import DataError
from dist_train.settings.schema import Data

SILENCE = 30.0
"""Seconds without an answer after which a download has failed."""

_log = logging.getLogger("dist_train.data")


@dataclass(frozen=True)
class Files:
    """Files of a data set that torchvision can download."""

    loader: str
    """Class in `torchvision.datasets`."""
    folder: str
    """Where they lie under `data.root`."""
    names: tuple[str, ...]


def require(files: Files, config: Data) -> Path:
    """The folder under `data.root` with all the files in it, downloaded where they are missing and may be.

    Raises:
        DataError: files are missing and may not or could not be downloaded.
    """
    folder = Path(config.root) / files.folder
    if not _missing(files, folder):
        return folder
    if not config.download:
        raise _refusal(files, config, "data.download is off")
    with cache.lock(Path(config.cache), config.name):
        if _missing(files, folder):
            _download(files, config, folder)
    return folder


def _missing(files: Files, folder: Path) -> list[str]:
    return [name for name in files.names if not (folder / name).is_file()]


def _download(files: Files, config: Data, folder: Path) -> None:
    """Download beside the folder and move complete files into it: half a file never counts as there."""
    from torchvision import datasets

    _log.info("downloading %s to %s", config.name, folder)
    try:
        Path(config.root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=config.root) as aside, _impatient():
            # The class checks what it downloaded against the checksums of the original files.
            getattr(datasets, files.loader)(aside, download=True)
            folder.mkdir(parents=True, exist_ok=True)
            for name in _missing(files, folder):
                shutil.move(Path(aside) / files.folder / name, folder / name)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise _refusal(files, config, f"they could not be downloaded ({reason})") from error


@contextmanager
def _impatient() -> Iterator[None]:
    """Let connections fail that do not answer; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _refusal(files: Files, config: Data, reason: str) -> DataError:
    folder = Path(config.root) / files.folder
    return DataError(
        f"data.name {config.name}: {folder} lacks {', '.join(_missing(files, folder))}, and {reason}. Put the files "
        f"there, or set data.root (or the variable DIST_TRAIN_DATA) to the directory that holds {files.folder}"
    )
