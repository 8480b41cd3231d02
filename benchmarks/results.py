"""The directory of results, and how they are written."""

import json
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT
from dist_train.errors import UserError

DIRECTORY = ROOT / "benchmarks" / "results"


def check_out(directory: Path) -> None:
    """Check that results can be written, before they are measured for hours.

    Raises:
        UserError: they cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(f"--out {directory}: cannot be written ({error}); give another directory") from error


def write_both(directory: Path, name: str, content: dict[str, Any], text: str) -> Path:
    """Write numbers and their report to new files, with a number after the name if it is taken.

    Returns:
        The JSON file.
    """
    paths = (directory / f"{name}{f'-{number}' if number > 1 else ''}.json" for number in count(1))
    path = next(path for path in paths if not (path.exists() or path.with_suffix(".md").exists()))
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return path
