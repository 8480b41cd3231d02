"""A checkout of dist-train to measure: this one, or another version that has its own names of settings."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import ROOT, FailedError, run
from dist_train.errors import UserError
from dist_train.settings.loading.renames import OLD_VALUES, RENAMED_KEYS


@dataclass(frozen=True)
class Checkout:
    """A directory that holds dist-train."""

    root: Path = ROOT
    names: Mapping[str, str] = field(default_factory=dict)
    """Settings of this version, and their older names in the checkout."""
    values: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Settings and values of this version, and the older names of the values in the checkout."""

    def translate(self, setting: str) -> str:
        """A `key=value` of this version, as the checkout calls it."""
        key, _, value = setting.partition("=")
        return f"{self.names.get(key, key)}={self.values.get((key, value), value)}"


def open_checkout(root: Path) -> Checkout:
    """A checkout of another version; reads from its `--settings` which names are older.

    Raises:
        UserError: it is not a dist-train that runs.
    """
    root = root.resolve()
    if not (root / "dist_train" / "__main__.py").is_file():
        raise UserError(f"--before {root}: there is no dist_train in it; give the root of a checkout")
    try:
        reference = run([sys.executable, "-m", "dist_train", "--settings"], root=root).output
    except FailedError as error:
        raise UserError(f"--before {root}: python -m dist_train --settings fails there: {error}") from error
    allowed = dict(re.findall(r"^- `([\w.]+)`: ([^.]*)\.", reference, re.MULTILINE))
    names = {new: old for old, new in RENAMED_KEYS.items() if new not in allowed and ".args." not in new}
    values = {
        (old.key, old.replacement): old.value
        for old in OLD_VALUES
        if old.key in allowed and old.replacement not in allowed[old.key]
    }
    return Checkout(root, names, values)
