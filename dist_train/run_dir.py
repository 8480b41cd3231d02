"""The directory of a run: paths, lock and status.

config.yaml  status.json  metrics.jsonl  ledger.jsonl  env.json  code/  tb/  logs/  checkpoints/  diagnostics/  jobs/
"""

import json
import logging
import os
import re
import socket
import stat
import tempfile
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypedDict

from dist_train.errors import ConfigError
from dist_train.system.escape import escape
from dist_train.system.lock_file import LockFile
from dist_train.system.process import find_launcher
from dist_train.system.read_file import list_directory, may_exist, parse_object, read_bytes

State = Literal["running", "done", "preempted", "failed"]

_log = logging.getLogger(__name__)


class Status(TypedDict, total=False):
    """The content of `status.json`, for its readers; earlier versions wrote fewer keys."""

    state: Literal[State, "dead"]
    updated: str
    """UTC."""
    host: str
    pid: int
    job_id: str | None
    attempt: int
    launcher: str | None
    restarts: int
    resumable: bool
    step: int
    epoch: int
    total_steps: int | None
    started_step: int
    error: str
    early: bool
    checkpoint: int | None


class RunDir:
    """Paths of a run's files; only rank 0 writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.status = self.path / "status.json"
        self.metrics = self.path / "metrics.jsonl"
        self.ledger = self.path / "ledger.jsonl"
        self.environment = self.path / "env.json"
        self.curves = self.path / "tb"
        self.code = self.path / "code"
        """Copies of the user's code."""
        self.logs = self.path / "logs"
        self.checkpoints = self.path / "checkpoints"
        self.diagnostics = self.path / "diagnostics"
        self.jobs = self.path / "jobs"
        self.lock = self.path / "run.lock"
        self.attempt = 0
        """Number of starts of this run, including this one; 0 before `claim`."""
        self.saved_step: int | None = None
        """Step of the newest checkpoint of this run, for `status.json`; None while it has none."""
        self._restarts = 0
        self._writing = threading.Lock()
        self._lock_file = LockFile(self.lock)
        self._has_warned = False

    def check_usable(self, fresh_start: bool) -> None:
        """Check, without changing anything, that the directory can be created, written and belongs to a run.

        Args:
            fresh_start: whether `claim` is going to move an existing directory aside.

        Raises:
            ConfigError: it can't be written, holds other files, or another process trains there.
        """
        path = existing = self.path.absolute()
        try:
            if not self._lock_file.wait():
                raise self._make_lock_error()
            if self._would_harm(fresh_start):
                raise ConfigError(f"{self._shown}: contains files, but no run. Set run.dir to another directory")
            self._check_kinds()
            existing = next(parent for parent in (path, *path.parents) if parent.exists())
            # Permissions are not enough: root has them all, also on a read-only file system.
            with tempfile.TemporaryFile(dir=existing) as file:
                file.write(bytes(2**16))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._make_error(error, existing) from error

    def _would_harm(self, fresh_start: bool) -> bool:
        """Whether the directory is not that of a run, and has files that a run would overwrite or move aside."""
        is_run = self._is_known() or self._has_checkpoints()
        paths = (*self._files, *self._directories)
        return not is_run and (any(map(_holds_files, paths)) or (fresh_start and self._has_files()))

    @property
    def _files(self) -> tuple[Path, ...]:
        return self.config, self.status, self.metrics, self.ledger, self.environment

    @property
    def _directories(self) -> tuple[Path, ...]:
        return self.curves, self.code, self.logs, self.checkpoints, self.diagnostics

    @property
    def _shown(self) -> str:
        """The setting and its value, as messages begin."""
        return f"run.dir {escape(self.path)}"

    def _check_kinds(self) -> None:
        """Check that what a run writes as a file is a file, and a directory where it needs one."""
        for paths, is_right, kind in (
            ((*self._files, self.lock), stat.S_ISREG, "file"),
            (self._directories, stat.S_ISDIR, "directory"),
        ):
            for path in paths:
                with suppress(FileNotFoundError):
                    if not is_right(path.stat().st_mode):
                        raise ConfigError(
                            f"{self._shown}: {path.name} is not a {kind}, as a run needs it: move it elsewhere"
                        )

    def _is_known(self) -> bool:
        """Whether a process has claimed the directory, or a job was submitted that will."""
        return may_exist(self.lock) or self.jobs.is_dir()

    def _has_checkpoints(self) -> bool:
        return any(may_exist(path / "manifest.json") for path in list_directory(self.checkpoints))

    def _has_files(self) -> bool:
        return self.path.is_dir() and any(map(_holds_files, self.path.iterdir()))

    def claim(self, fresh_start: bool) -> Path | None:
        """Create the directory and lock it for this process, until `release`.

        The system releases the lock when this process ends, even by SIGKILL. On a file system without locks,
        `check_attempt` prevents all but the newest start from saving.

        Args:
            fresh_start: first rename an existing directory to the first free `<dir>.old-<n>`.

        Returns:
            The new path of the existing directory, None if none was renamed.

        Raises:
            ConfigError: another process trains there, or the directory can't be created or renamed.
        """
        try:
            aside = self._move_aside() if fresh_start and self._has_files() else None
            self.path.mkdir(parents=True, exist_ok=True)
            # The lock comes first: by it the next start knows this directory, should this process end now.
            self._acquire_lock()
            for directory in (self.logs, self.checkpoints):
                directory.mkdir(exist_ok=True)
            self._restarts = self._count_restarts()
            self._write_signature()
            self._clear_leftovers()
        except OSError as error:
            self.release()
            raise self._make_error(error, Path(error.filename or self.path)) from error
        return aside

    def release(self) -> None:
        """Release the lock, so that another process can claim the directory."""
        self._lock_file.release()

    def _clear_leftovers(self) -> None:
        """Remove the temporary files of starts that were killed while they wrote; the lock has to be held."""
        names = "|".join(re.escape(path.name) for path in self._files)
        leftover = re.compile(rf"\.({names})(\.\d+)?")
        for path in self.path.iterdir():
            if leftover.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()

    def check_attempt(self) -> None:
        """Check that no other process has claimed the directory after this one.

        Raises:
            ConfigError: another process has, or the directory was moved.
            OSError: the lock file can't be read.
        """
        holder = _read_object(self.lock)
        if holder != self._signature():
            now = _format_holder(holder) if holder else "a process that has moved its run.lock"
            raise ConfigError(
                f"{self._shown}: was taken over by {now}; this process ({_format_holder(self._signature())}) "
                "stops saving. Let only one of them train there"
            )

    def _write_signature(self) -> None:
        """Number this start and write it into the lock file."""
        attempts = [_read_count(known, "attempt") for known in (_read_object(self.lock), self._read_status_file())]
        judged = [re.fullmatch(r"verdict_(\d{1,9})\.json", path.name) for path in list_directory(self.diagnostics)]
        self.attempt = 1 + max([*attempts, *(int(found[1]) for found in judged if found)], default=0)
        self._lock_file.write(json.dumps(self._signature()) + "\n")

    def _signature(self) -> dict[str, Any]:
        return {"host": socket.gethostname(), "pid": os.getpid(), "job_id": get_job_id(), "attempt": self.attempt}

    def _acquire_lock(self) -> None:
        """Hold `run.lock`; raises ConfigError if another process keeps it."""
        if not self._lock_file.acquire():
            raise self._make_lock_error()

    def is_held(self) -> bool | None:
        """Whether a process on this machine, this one included, holds the lock; None on a file system without locks."""
        return self._lock_file.is_held()

    def _make_lock_error(self) -> ConfigError:
        holder = _read_object(self.lock)
        return ConfigError(
            f"{self._shown}: another process trains there: {_format_holder(holder) if holder else 'unknown'}. "
            "Wait until it ends, or give this run another name (run.name=...)"
        )

    def _move_aside(self) -> Path:
        self._acquire_lock()
        number = 1
        while (aside := self.path.absolute().with_name(f"{self.path.absolute().name}.old-{number}")).exists():
            number += 1
        try:
            self.path.rename(aside)
        finally:
            self.release()
        return aside

    def _make_error(self, error: OSError, path: Path) -> ConfigError:
        return ConfigError(
            f"{self._shown}: can't be written: {error.strerror or error} ({escape(path)}). Set run.dir to a directory "
            "that you may write"
        )

    def write_status(self, state: State, step: int, epoch: int, *, resumable: bool, **more: Any) -> bool:
        """Write `status.json`; `updated` is in UTC. If that fails, only the first failure is logged.

        Args:
            resumable: whether the same command would continue the run.

        Returns:
            Whether it was written.
        """
        status = self._make_status(state, resumable) | {"step": step, "epoch": epoch, "checkpoint": self.saved_step}
        try:
            with self._writing:  # the threads that save and that watch write it too
                write_atomically(self.status, json.dumps(status | more) + "\n")
        except OSError as error:
            if not self._has_warned:
                _log.warning("%s: can't be written: %s; the run continues", self.status, error.strerror or error)
            self._has_warned = True
            return False
        return True

    def record_early_stop(self) -> None:
        """Write to `status.json` that this process was asked to stop before it claimed the directory.

        Nothing is written if there is no run, the run is done, or another process trains.
        """
        self._record_end("preempted", resumable=True, early=True)

    def record_refusal(self, message: str) -> None:
        """Write to `status.json` that this process ended with a UserError before it claimed the directory.

        Nothing is written without a launcher that could restart it, and in the cases of `record_early_stop`.
        """
        if find_launcher() is not None:
            self._record_end("failed", resumable=False, error=message)

    def _record_end(self, state: State, *, resumable: bool, **more: Any) -> None:
        with suppress(OSError):  # the status is only information
            before = _read_object(self.status) or {"step": 0, "epoch": 0, "attempt": 0}
            if self._is_known() and before.get("state") != "done" and not self.is_held():
                status = self._make_status(state, resumable) | {"attempt": before.get("attempt", 0), **more}
                write_atomically(self.status, json.dumps(before | status) + "\n")

    def _make_status(self, state: State, resumable: bool) -> dict[str, Any]:
        return {
            "state": state,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._signature(),
            "launcher": find_launcher(),
            "restarts": self._restarts,
            "resumable": resumable,
        }

    def read_status(self) -> dict[str, Any] | None:
        """Return the content of `status.json`, None without one; `state` is `dead` if the writer was killed.

        `dead` is not detected for a writer on another machine, and on a file system without locks.
        """
        status = _read_object(self.status)
        is_here = status is not None and status.get("host") == socket.gethostname()
        if status and is_here and status.get("state") == "running" and self.is_held() is False:
            return {**status, "state": "dead"}
        return status

    def ended_before_restart(self) -> State | None:
        """Return how the run ended for good, if the launcher of this rank has restarted its ranks all the same.

        torchrun treats every exit code as a failure, also that of ranks that were asked to stop (`preempted`) or that
        would fail again (`failed`). None if the run continues, or on a machine without the run's directory.
        """
        status = self._status_of_earlier_ranks() or {}
        # A launcher also stops ranks when another one has failed, which a rank can't know before it has claimed.
        if status.get("state") == "preempted" and not status.get("early"):
            return "preempted"
        return "failed" if status.get("state") == "failed" and not status.get("resumable", True) else None

    def was_begun_before_restart(self) -> bool:
        """Whether earlier ranks of the same launcher have started this run."""
        return self._status_of_earlier_ranks() is not None

    def _count_restarts(self) -> int:
        """Return how often this rank's launcher has restarted its ranks, as far as known."""
        earlier = self._status_of_earlier_ranks() or {}
        counted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        counts = [int(counted)] if re.fullmatch(r"\d{1,9}", counted) else []
        return max([*counts, 1 + _read_count(earlier, "restarts")] if earlier else [*counts, 0])

    def _status_of_earlier_ranks(self) -> dict[str, Any] | None:
        """Return the status that earlier ranks of the same launcher have written, None if there are none."""
        # TORCHELASTIC_RESTART_COUNT is not enough: an agent that restarts its ranks because ranks of another host were
        # lost does not count that.
        own = find_launcher()
        status = self._read_status_file() if own else None
        return status if status is not None and status.get("launcher") == own else None

    def _read_status_file(self) -> dict[str, Any] | None:
        """Return the content of `status.json`, None where it can't be read: it is only information."""
        try:
            return _read_object(self.status)
        except OSError:
            return None


def get_job_id() -> str | None:
    """Return the Slurm job of this process, None outside a job."""
    return os.environ.get("SLURM_JOB_ID")


def write_atomically(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees the old text or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in the first line of a file, None without one; raises OSError if it can't be read."""
    try:
        return parse_object(read_bytes(path).split(b"\n")[0])
    except (FileNotFoundError, ValueError):
        return None


def _read_count(content: dict[str, Any] | None, key: str) -> int:
    """Return a number of starts; 0 where there is none, or one that no run can have."""
    count = (content or {}).get(key)
    return count if type(count) is int and 0 <= count < 10**9 else 0


def _holds_files(path: Path) -> bool:
    """Whether there is a file, a link or a directory that is not empty; empty ones a start may have left behind."""
    if path.is_dir() and not path.is_symlink():
        return any(map(_holds_files, path.iterdir()))
    return may_exist(path)


def _format_holder(holder: dict[str, Any]) -> str:
    job = f", job {holder['job_id']}" if holder.get("job_id") else ""
    return escape(f"host {holder.get('host')}, pid {holder.get('pid')}{job}, attempt {holder.get('attempt')}")
