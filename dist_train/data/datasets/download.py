"""Find the files of a data set, download them, or report where they belong."""

import logging
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from dist_train.data.cache.lock import lock
from dist_train.errors import DataError
from dist_train.settings.schema import Data

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


def require(files: DataFiles, config: Data) -> Path:
    """Return the folder under `data.root` that holds all files; download missing ones if `data.download` allows it.

    Raises:
        DataError: files are missing, and downloading is off or failed.
    """
    folder = Path(config.root) / files.folder
    if not _list_missing(files, folder):
        return folder
    if not config.download:
        raise _missing_files_error(files, config, "data.download is off")
    with lock(Path(config.cache), config.name):
        if _list_missing(files, folder):
            _download(files, config, folder)
    return folder


def _list_missing(files: DataFiles, folder: Path) -> list[str]:
    return [name for name in files.names if not (folder / name).is_file()]


def _download(files: DataFiles, config: Data, folder: Path) -> None:
    """Download into a temporary folder and move complete files: an incomplete file is never found."""
    from torchvision import datasets

    _log.info("downloading %s to %s", config.name, folder)
    try:
        Path(config.root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=config.root) as aside, _time_out_connections():
            # The class checks what it downloaded against the checksums of the original files.
            getattr(datasets, files.loader)(aside, download=True)
            folder.mkdir(parents=True, exist_ok=True)
            for name in _list_missing(files, folder):
                shutil.move(Path(aside) / files.folder / name, folder / name)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise _missing_files_error(files, config, f"they could not be downloaded ({reason})") from error


@contextmanager
def _time_out_connections() -> Iterator[None]:
    """Set a timeout for connections; torchvision sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _missing_files_error(files: DataFiles, config: Data, reason: str) -> DataError:
    folder = Path(config.root) / files.folder
    return DataError(
        f"data.name {config.name}: {folder} lacks {', '.join(_list_missing(files, folder))}, and {reason}. Put the "
        f"files there, or set data.root (or the variable DIST_TRAIN_DATA) to the directory that holds {files.folder}"
    )
