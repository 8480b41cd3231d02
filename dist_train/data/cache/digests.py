"""Digests of the files of a data set, read again only when a name, size or time has changed.

`<name>.digests.json` holds the newest of them by the stamp of their files: a digest is the same for a copy of the files
elsewhere, a stamp is not.
"""

import contextlib
import logging
from pathlib import Path

from dist_train.data.cache.entries import read_json, write_json
from dist_train.data.cache.location import CacheError
from dist_train.data.cache.lock import lock
from dist_train.data.source import FileList
from dist_train.settings.schema import ImageData

KEPT = 64
"""Digests that a data set keeps."""

_log = logging.getLogger("dist_train.data")


def find_digest(config: ImageData, files: FileList) -> str:
    """Return the digest of these files; one process of the machine reads them if they are new or have changed."""
    path = Path(config.cache) / f"{config.name}.digests.json"
    if found := _read(path).get(files.stamp):
        return found
    digest = None
    with contextlib.suppress(CacheError), lock(path.parent, config.name):  # else each start reads the files
        known = _read(path)
        digest = known.get(files.stamp) or _compute(config, files)
        newest = [*((stamp, other) for stamp, other in known.items() if stamp != files.stamp), (files.stamp, digest)]
        write_json(path, {"digests": dict(newest[-KEPT:])})
    return digest or _compute(config, files)


def _compute(config: ImageData, files: FileList) -> str:
    if len(files.paths) > 1000:
        _log.info("reading %s files of %s, to notice when they change", f"{len(files.paths):,}", config.name)
    return files.compute_digest()


def _read(path: Path) -> dict[str, str]:
    found = (read_json(path) or {}).get("digests", {})
    return found if isinstance(found, dict) else {}
