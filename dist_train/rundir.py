"""The directory of a run: where each thing lies, and how it is written so that nothing is ever half there.

config.yaml  status.json  metrics.jsonl  env.json  tb/  logs/  checkpoints/  diagnostics/
"""

import json
import os
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import filelock

from dist_train.errors import ConfigError

PATIENCE = 10.0  # seconds; workers of a killed run's loader hold its lock until they notice
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
        self.diagnostics = self.path / "diagnostics"
        self.lock = self.path / "run.lock"
        self._held = filelock.FileLock(self.lock)

    def check_usable(self, anew: bool) -> None:
        """Find out without leaving a trace whether the directory can be made and written, and is this program's.

        Args:
            anew: whether `claim` is going to move aside what is there.

        Raises:
            ConfigError: it can't, or it holds something else.
        """
        path = existing = self.path.absolute()
        try:
            if self._would_harm(anew):
                raise ConfigError(f"run.dir {self.path}: holds files and no run. Set run.dir to another directory")
            existing = next(parent for parent in (path, *path.parents) if parent.exists())
            # Asking the permissions is not enough: root has them all, also on a file system that takes nothing.
            with tempfile.TemporaryFile(dir=existing) as file:
                file.write(bytes(2**16))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._refused(error, existing) from error

    def _would_harm(self, anew: bool) -> bool:
        """Whether the directory is no run of ours and has files that a run would overwrite or move aside."""
        is_run = self.lock.exists() or any(self.checkpoints.glob("step_*/manifest.json"))
        files = (self.config, self.status, self.metrics, self.environment)
        ours = (*files, self.curves, self.logs, self.checkpoints, self.diagnostics)
        return not is_run and (any(path.exists() for path in ours) or (anew and self._has_files()))

    def _has_files(self) -> bool:
        return self.path.is_dir() and any(self.path.iterdir())

    def claim(self, anew: bool) -> Path | None:
        """Make the directory and be the only process that writes in it, until `release`.

        Args:
            anew: move an earlier run aside first, to the first free `<dir>.old-<n>`.

        Returns:
            Where the earlier run lies now, None where none was moved.

        Raises:
            ConfigError: another process trains there, or the directory can't be made or moved.
        """
        try:
            aside = self._move_aside() if anew and self._has_files() else None
            for directory in (self.path, self.logs, self.checkpoints):
                directory.mkdir(parents=True, exist_ok=True)
            self._lock()
        except OSError as error:
            raise self._refused(error, self.path) from error
        return aside

    def release(self) -> None:
        """Let another process claim the directory."""
        self._held.release()

    def _lock(self) -> None:
        """Hold `run.lock`, which the system lets go of when this process ends, however it ends."""
        try:
            self._held.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            holder = self.lock.read_text().strip()
            raise ConfigError(
                f"run.dir {self.path}: another process trains there: {holder}. Wait for its end, or give this run "
                "another name (run.name=...)"
            ) from None
        self.lock.write_text(f"host {socket.gethostname()}, pid {os.getpid()}\n")

    def _move_aside(self) -> Path:
        self._lock()
        number = 1
        while (aside := self.path.absolute().with_name(f"{self.path.absolute().name}.old-{number}")).exists():
            number += 1
        self.path.rename(aside)
        self._held.release()
        return aside

    def _refused(self, error: OSError, place: Path) -> ConfigError:
        return ConfigError(
            f"run.dir {self.path}: can't be written: {error.strerror or error} ({place}). Set run.dir to a directory "
            "that you may write"
        )

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


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old text or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
