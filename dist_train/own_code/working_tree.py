"""Read from git the commit of a folder, and how the tracked files differ from it."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

_SECONDS = 20
_LARGEST_DIFF = 16 * 2**20


class WorkingTree(NamedTuple):
    """The state of a working tree of git."""

    commit: str
    diff: bytes
    """Differences of tracked files from the commit; untracked files may be secrets."""


def describe_working_tree(folder: Path) -> WorkingTree | None:
    """Return the state of the working tree around a folder; None without one, or if git fails."""
    commit = _run_git(folder, "rev-parse", "--verify", "HEAD")
    # Programs that the settings of git name for diffs are not run.
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--binary", "--ignore-submodules=dirty")
    diff = _run_git(folder, "diff", "HEAD", *options) if commit else None
    if commit is None or diff is None:
        return None
    if len(diff) > _LARGEST_DIFF:
        diff = f"The diff has {len(diff)} bytes and was left out.\n".encode()
    return WorkingTree(commit.decode().strip(), diff)


def _run_git(folder: Path, *arguments: str) -> bytes | None:
    """Return the output of git, None if it fails."""
    # Variables such as GIT_DIR, which hooks of git set, lead to another working tree.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments],  # noqa: S607 (the one of the user)
            env={**environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
