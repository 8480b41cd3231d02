"""The settings that are paths, and what may be written in them: a home and variables, but no address."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from dist_train.settings.loading.strict_yaml import MAX_BYTES, Fault, LocatedValue, get_written, set_written
from dist_train.settings.loading.values import format_value, shorten

PATHS = ("run.dir", "run.resume", "run.init", "data.root", "data.cache", "data.file", "model.weights")
"""The settings that are paths."""
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def expand_path(text: str, environ: Mapping[str, str]) -> str:
    """Return a path without `~` and `$NAME`; raises ValueError with what is wrong."""

    def look_up(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not environ.get(name):
            raise ValueError(f"the variable {shorten(name)} is not set")
        return environ[name]

    if re.match("[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise ValueError("it must be a path in a file system of this machine, not an address")
    if "$" in re.sub(_VARIABLE, "", text):
        raise ValueError("its $ is not followed by the name of a variable")
    expanded = re.sub(_VARIABLE, look_up, text)
    try:
        return str(Path(expanded).expanduser()) if expanded.startswith("~") else expanded
    except (RuntimeError, ValueError):
        raise ValueError("the home directory at its start is unknown") from None


def expand_paths(root: LocatedValue, environ: Mapping[str, str], is_of_run: bool) -> Iterator[Fault]:
    """Expand `~` and `$NAME` in paths; those in the file of a run have been expanded before."""
    for key in PATHS:
        value, location = get_written(root, key).value, get_written(root, key).location
        if isinstance(value, str) and not (is_of_run and 0 < location.order <= MAX_BYTES):
            try:
                set_written(root, key, LocatedValue(expand_path(value, environ), location))
            except ValueError as error:
                yield Fault(location, f"{key} is {format_value(value)}; {error}")
