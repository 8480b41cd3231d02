"""Set defaults that depend on the environment, the name of the file and other settings."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dist_train.own_code.reference import parse_reference
from dist_train.settings.loading.keys import SECTIONS
from dist_train.settings.loading.messages import map_names_to_classes
from dist_train.settings.loading.strict_yaml import LocatedValue, SourceLocation, get_written
from dist_train.settings.schema import LineData, TableData

_ROWS = map_names_to_classes((LineData, TableData))
"""Data sets without images, which have no folder and no cache."""


def set_defaults(root: LocatedValue, file_stem: str, environ: Mapping[str, str]) -> None:
    """Set what the file and the command line leave out; `file_stem` names the run."""
    for section in SECTIONS:
        _set_default(root, section, {}, root.location)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", file_stem).lstrip(".-") or "run"
    _set_default(root, "run.name", name, root.location)
    _set_default(root, "run.dir", f"runs/{get_written(root, 'run.name').to_plain()}", root.location)
    data = str(get_written(root, "data.name").value)
    if parse_reference(data) is None:
        _set_default(root, "data.augment", {}, root.location)
    if parse_reference(data) is None and data not in _ROWS:
        _set_default(root, "data.root", environ.get("DIST_TRAIN_DATA") or "data", SourceLocation(0, "$DIST_TRAIN_DATA"))
        _set_default(root, "data.cache", find_default_cache(environ), SourceLocation(0, "$XDG_CACHE_HOME"))
    _set_default(root, "optim.name", "sgd", root.location)
    if get_written(root, "train.max_steps").value is None:
        _set_default(root, "train.epochs", 10, root.location)


def find_default_cache(environ: Mapping[str, str]) -> str:
    """Return the default of `data.cache`; without a known home directory, a folder for temporary files."""
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return str(Path(base, "dist-train").expanduser())
    except RuntimeError:
        return (
            f"{base}/dist-train" if "XDG_CACHE_HOME" in environ else f"{tempfile.gettempdir()}/dist-train-{os.getuid()}"
        )


def _set_default(root: LocatedValue, key: str, value: Any, location: SourceLocation) -> None:
    """Set `key` if it is not written or null; a section that is not a mapping is left to the checks."""
    head, _, name = key.rpartition(".")
    entries = get_written(root, head).value if head else root.value
    if isinstance(entries, dict) and (name not in entries or entries[name].value is None):
        entries[name] = LocatedValue(value, entries[name].location if name in entries else location)
