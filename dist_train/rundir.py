"""The directory of a run: where each thing lies, and how it is written so that nothing is ever half there.

config.yaml  status.json  metrics.jsonl  env.json  tb/  logs/  checkpoints/
"""

import json
import os
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dist_train.errors import ConfigError

State = Literal["running", "done", "preempted", "failed"]


class RunDir:
    """Paths of a run's files; only rank 0 writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.status = self.path / "status.json"
        self.metrics = self.path / "metrics.jsonl"
        self.environment = self.path / "env.json"
        self.curves = self.path / "tb"
        self.logs = self.path / "logs"
        self.checkpoints = self.path / "checkpoints"

    def check_writable(self) -> None:
        """Find out without leaving a trace whether the directory can be made and written.

        Raises:
            ConfigError: it can't.
        """
        path = existing = self.path.absolute()
        try:
            existing = next(parent for parent in (path, *path.parents) if parent.exists())
            # Asking the permissions is not enough: root has them all, also on a file system that takes nothing.
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise ConfigError(
                f"run.dir {self.path}: can't be written: {error.strerror} ({existing}). Set run.dir to a directory "
                "that you may write"
            ) from error

    def move_aside(self) -> Path | None:
        """Rename an earlier run to the first free `<dir>.old-<n>`; None where there is no earlier run."""
        path = self.path.resolve()
        if not path.exists():
            return None
        number = 1
        while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
            number += 1
        path.rename(aside)
        return aside

    def make(self) -> None:
        """Make the directory and those inside it."""
        for directory in (self.path, self.logs, self.checkpoints):
            directory.mkdir(parents=True, exist_ok=True)

    def write_status(self, state: State, step: int, epoch: int, **more: Any) -> None:
        """Say how the run is doing; `updated` is UTC."""
        status = {
            "state": state,
            "step": step,
            "epoch": epoch,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **more,
        }
        write_whole(self.status, json.dumps(status) + "\n")

    def read_status(self) -> dict[str, Any]:
        """The newest status, empty where there is none."""
        return dict(json.loads(self.status.read_text())) if self.status.exists() else {}


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old text or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
