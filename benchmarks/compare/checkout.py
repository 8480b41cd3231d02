"""A checkout of dist-train to measure: this one, or another version that has its own names of settings."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import ROOT, FailedError, run
from dist_train.errors import UserError

RENAMED = {
    "log.every_steps": "log.every",
    "log.weights_every_steps": "log.weights_every",
    "checkpoint.every_steps": "checkpoint.every",
}
"""Settings by their names here, and by the names that versions before November 2026 have."""
RENAMED_VALUES = {("data.loader", "in_memory"): "resident"}


@dataclass(frozen=True)
class Checkout:
    """A directory that holds dist-train."""

    root: Path = ROOT
    names: Mapping[str, str] = field(default_factory=dict)
    """Its name of each setting that is called otherwise there."""
    values: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Its word for each value that is called otherwise there, by setting and value."""

    def translate(self, setting: str) -> str:
        """A `key=value` in the words of this version."""
        key, _, value = setting.partition("=")
        return f"{self.names.get(key, key)}={self.values.get((key, value), value)}"


def open_checkout(root: Path) -> Checkout:
    """Another version of dist-train; finds out which of its settings have older names.

    Raises:
        UserError: there is no dist-train that runs.
    """
    if not (root / "dist_train" / "__main__.py").is_file():
        raise UserError(f"--before {root}: holds no dist_train; give the root of a checkout")
    try:
        documented = run([sys.executable, "-m", "dist_train", "--settings"], root=root.resolve()).output
    except FailedError as error:
        raise UserError(f"--before {root}: python -m dist_train --settings fails there: {error}") from error
    names = {new: old for new, old in RENAMED.items() if f"`{new}`" not in documented}
    loader = re.search(r"^- `data\.loader`: ([^.]*)\.", documented, re.MULTILINE)
    knows_in_memory = loader is not None and "in_memory" in loader[1]
    return Checkout(root.resolve(), names, {} if knows_in_memory else RENAMED_VALUES)
