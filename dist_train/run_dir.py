"""The directory of a run: paths, lock and status.

config.yaml  status.json  metrics.jsonl  ledger.jsonl  env.json  tb/  logs/  checkpoints/  diagnostics/  jobs/
"""

import errno
import fcntl
import json
import logging
import os
import socket
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dist_train.errors import ConfigError
from dist_train.system.process import find_launcher

PATIENCE = 2.0  # seconds; a killed run's lock is released when the last worker of its loader has ended too
State = Literal["running", "done", "preempted", "failed"]

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_log = logging.getLogger(__name__)


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
        self.logs = self.path / "logs"
        self.checkpoints = self.path / "checkpoints"
        self.diagnostics = self.path / "diagnostics"
        self.jobs = self.path / "jobs"
        self.lock = self.path / "run.lock"
        self.attempt = 0
        """Number of starts of this run, including this one; 0 before `claim`."""
        self._restarts = 0
        self._descriptor: int | None = None
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
            self._wait_for_holder()
            if self._would_harm(fresh_start):
                raise ConfigError(f"run.dir {self.path}: contains files, but no run. Set run.dir to another directory")
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
        is_run = self._is_known() or any(self.checkpoints.glob("step_*/manifest.json"))
        files = (self.config, self.status, self.metrics, self.ledger, self.environment)
        paths = (*files, self.curves, self.logs, self.checkpoints, self.diagnostics)
        return not is_run and (any(path.exists() for path in paths) or (fresh_start and self._has_files()))

    def _is_known(self) -> bool:
        """Whether a process has claimed the directory, or a job was submitted that will."""
        return self.lock.exists() or self.jobs.is_dir()

    def _has_files(self) -> bool:
        return self.path.is_dir() and any(self.path.iterdir())

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
            for directory in (self.path, self.logs, self.checkpoints):
                directory.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._acquire_lock()
            self._restarts = self._count_restarts()
            self._write_signature(self._descriptor)
        except OSError as error:
            raise self._make_error(error, self.path) from error
        return aside

    def release(self) -> None:
        """Release the lock, so that another process can claim the directory."""
        if self._descriptor is not None:
            _unlock(self._descriptor)
            self._descriptor = None

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
                f"run.dir {self.path}: was taken over by {now}; this process ({_format_holder(self._signature())}) "
                "stops saving. Let only one of them train there"
            )

    def _write_signature(self, descriptor: int) -> None:
        """Write this process into the lock file; in place, because the lock belongs to the file, not to its name."""
        attempts = [known.get("attempt") for known in (_read_object(self.lock), _read_object(self.status)) if known]
        judged = [path.stem.removeprefix("verdict_") for path in self.diagnostics.glob("verdict_*.json")]
        attempts += [int(number) for number in judged if number.isdecimal()]
        self.attempt = 1 + max((attempt for attempt in attempts if isinstance(attempt, int)), default=0)
        text = json.dumps(self._signature()).encode() + b"\n"
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))
        os.fsync(descriptor)

    def _signature(self) -> dict[str, Any]:
        return {"host": socket.gethostname(), "pid": os.getpid(), "job_id": get_job_id(), "attempt": self.attempt}

    def _acquire_lock(self) -> int:
        """Return a descriptor that holds `run.lock`; raises ConfigError if another process keeps it for PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        while True:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o666)
            # The process that held it may have moved the run aside, and this lock with it.
            if _try_lock(descriptor) is not False and os.path.samestat(os.fstat(descriptor), self.lock.stat()):
                return descriptor
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise self._make_lock_error()
            time.sleep(0.05)

    def _wait_for_holder(self) -> None:
        """Wait until no process holds the lock; raises ConfigError if one keeps it for PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        while self.is_held():
            if time.monotonic() > deadline:
                raise self._make_lock_error()
            time.sleep(0.05)

    def is_held(self) -> bool | None:
        """Whether a process on this machine, this one included, holds the lock; None on a file system without locks."""
        if not self.lock.is_file():
            return False
        descriptor = os.open(self.lock, os.O_RDONLY)
        is_free = _try_lock(descriptor, shared=True)
        _unlock(descriptor)
        return None if is_free is None else not is_free

    def _make_lock_error(self) -> ConfigError:
        holder = _read_object(self.lock)
        return ConfigError(
            f"run.dir {self.path}: another process trains there: {_format_holder(holder) if holder else 'unknown'}. "
            "Wait until it ends, or give this run another name (run.name=...)"
        )

    def _move_aside(self) -> Path:
        descriptor = self._acquire_lock()
        number = 1
        while (aside := self.path.absolute().with_name(f"{self.path.absolute().name}.old-{number}")).exists():
            number += 1
        try:
            self.path.rename(aside)
        finally:
            _unlock(descriptor)
        return aside

    def _make_error(self, error: OSError, path: Path) -> ConfigError:
        return ConfigError(
            f"run.dir {self.path}: can't be written: {error.strerror or error} ({path}). Set run.dir to a directory "
            "that you may write"
        )

    def write_status(self, state: State, step: int, epoch: int, *, resumable: bool, **more: Any) -> bool:
        """Write `status.json`; `updated` is in UTC. If that fails, only the first failure is logged.

        Args:
            resumable: whether the same command would continue the run.

        Returns:
            Whether it was written.
        """
        status = self._make_status(state, resumable) | {"step": step, "epoch": epoch, **more}
        try:
            write_atomically(self.status, json.dumps(status) + "\n")
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
        counted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        return max(counted, 1 + int(earlier.get("restarts", -1)))

    def _status_of_earlier_ranks(self) -> dict[str, Any] | None:
        """Return the status that earlier ranks of the same launcher have written, None if there are none."""
        # TORCHELASTIC_RESTART_COUNT is not enough: an agent that restarts its ranks because ranks of another host were
        # lost does not count that.
        own = find_launcher()
        try:
            status = _read_object(self.status) if own else None
        except OSError:  # `check_usable` reports it
            return None
        return status if status is not None and status.get("launcher") == own else None


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
        found = json.loads(path.read_bytes().split(b"\n")[0])
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _format_holder(holder: dict[str, Any]) -> str:
    job = f", job {holder['job_id']}" if holder.get("job_id") else ""
    return f"host {holder.get('host')}, pid {holder.get('pid')}{job}, attempt {holder.get('attempt')}"


def _try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Try to lock an open file: whether it is locked now; None on a file system without locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _unlock(descriptor: int) -> None:
    """Release a lock, even if a fork shares the open file, and close the file."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
