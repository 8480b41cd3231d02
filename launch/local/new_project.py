"""Make a project for `dist-train new` from the folder `template`."""

import re
import shutil
import tempfile
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.installation import find_own
from dist_train.system.escape import escape
from dist_train.system.read_file import explain

OWN_NAME = "my_project"
"""The name in the template that a project's own replaces."""
_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "runs")


def make_project(name: str, folder: Path = Path()) -> Path:
    """Make the folder `name` with a project in it, all of it or nothing; return its path.

    Raises:
        ConfigError: the name can't be that of a run, or the folder has files, or can't be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"NAME is '{escape(name, 60)}'; it must be letters, digits and _ . - (at most 100, the first one a letter, "
            "digit or _), as the name of a folder that is made here"
        )
    path = folder / name
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise ConfigError(f"{path}: is there already; choose another name, or remove it")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as waiting:
            project = Path(waiting) / name
            shutil.copytree(find_own("template"), project, ignore=_NOT_COPIED)
            shutil.copyfile(find_own("slurm/train.sbatch"), project / "train.sbatch")
            for file in ("settings.yaml", "README.md"):
                text = (project / file).read_text(encoding="utf-8")
                (project / file).write_text(text.replace(OWN_NAME, name), encoding="utf-8")
            project.rename(path)  # also onto an empty folder
    except OSError as error:
        raise ConfigError(f"{path}: can't be made: {explain(error)}; go to a folder that you may write") from error
    return path
