"""The directory of a run: where each thing lies, and how it is written so that nothing is ever half there.

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

PATIENCE = 2.0  # seconds; a killed run's lock is free when the last worker of its loader has gone too
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
        """How often this run was started, this start included; 0 before `claim`."""
        self._restarts = 0
        self._descriptor: int | None = None
        self._has_warned = False

    def check_usable(self, anew: bool) -> None:
        """Find out without leaving a trace whether the directory can be made and written, and is this program's.

        Args:
            anew: whether `claim` is going to move aside what is there.

        Raises:
            ConfigError: it can't, or it holds something else, or another process trains there.
        """
        path = existing = self.path.absolute()
        try:
            self._wait_for_holder()
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
        is_run = self._is_known() or any(self.checkpoints.glob("step_*/manifest.json"))
        files = (self.config, self.status, self.metrics, self.ledger, self.environment)
        ours = (*files, self.curves, self.logs, self.checkpoints, self.diagnostics)
        return not is_run and (any(path.exists() for path in ours) or (anew and self._has_files()))

    def _is_known(self) -> bool:
        """Whether a start has claimed the directory, or a job was submitted to do so."""
        return self.lock.exists() or self.jobs.is_dir()

    def _has_files(self) -> bool:
        return self.path.is_dir() and any(self.path.iterdir())

    def claim(self, anew: bool) -> Path | None:
        """Make the directory and be the only process that writes in it, until `release`.

        The system lets go of the lock when this process ends, however it ends. Where the file system knows no locks,
        `check_attempt` keeps all but the last start from saving.

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
            self._descriptor = self._locked()
            self._restarts = self._count_restarts()
            self._sign(self._descriptor)
        except OSError as error:
            raise self._refused(error, self.path) from error
        return aside

    def release(self) -> None:
        """Let another process claim the directory."""
        if self._descriptor is not None:
            _unlock(self._descriptor)
            self._descriptor = None

    def check_attempt(self) -> None:
        """Find out whether this process is still the last that has claimed the directory.

        Raises:
            ConfigError: another one is, or the directory has been moved away.
            OSError: that can't be read.
        """
        holder = _read_object(self.lock)
        if holder != self._signature():
            now = _shown(holder) if holder else "whoever has moved its run.lock away"
            raise ConfigError(
                f"run.dir {self.path}: was taken over by {now}; this process ({_shown(self._signature())}) saves "
                "nothing more. Let only one of them train there"
            )

    def _sign(self, descriptor: int) -> None:
        """Write down who holds the lock, in place: the lock belongs to the file, not to its name."""
        attempts = [known.get("attempt") for known in (_read_object(self.lock), _read_object(self.status)) if known]
        judged = [path.stem.removeprefix("verdict_") for path in self.diagnostics.glob("verdict_*.json")]
        attempts += [int(number) for number in judged if number.isdecimal()]
        self.attempt = 1 + max((attempt for attempt in attempts if isinstance(attempt, int)), default=0)
        text = json.dumps(self._signature()).encode() + b"\n"
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))
        os.fsync(descriptor)

    def _signature(self) -> dict[str, Any]:
        return {"host": socket.gethostname(), "pid": os.getpid(), "job_id": job_id(), "attempt": self.attempt}

    def _locked(self) -> int:
        """A descriptor that holds `run.lock`; raises ConfigError naming the holder if that does not end in time."""
        deadline = time.monotonic() + PATIENCE
        while True:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o666)
            # Whoever held it may have moved the whole run aside, and this would be the lock of that.
            if _lock(descriptor) is not False and os.path.samestat(os.fstat(descriptor), self.lock.stat()):
                return descriptor
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise self._held()
            time.sleep(0.05)

    def _wait_for_holder(self) -> None:
        """Give a process that holds the lock a moment to end; raises ConfigError naming it if it does not."""
        deadline = time.monotonic() + PATIENCE
        while self.is_held():
            if time.monotonic() > deadline:
                raise self._held()
            time.sleep(0.05)

    def is_held(self) -> bool | None:
        """Whether a process of this machine holds the lock, this one included; None where there are no locks."""
        if not self.lock.is_file():
            return False
        descriptor = os.open(self.lock, os.O_RDONLY)
        is_free = _lock(descriptor, shared=True)
        _unlock(descriptor)
        return None if is_free is None else not is_free

    def _held(self) -> ConfigError:
        holder = _read_object(self.lock)
        return ConfigError(
            f"run.dir {self.path}: another process trains there: {_shown(holder) if holder else 'it gives no name'}. "
            "Wait for its end, or give this run another name (run.name=...)"
        )

    def _move_aside(self) -> Path:
        descriptor = self._locked()
        number = 1
        while (aside := self.path.absolute().with_name(f"{self.path.absolute().name}.old-{number}")).exists():
            number += 1
        try:
            self.path.rename(aside)
        finally:
            _unlock(descriptor)
        return aside

    def _refused(self, error: OSError, place: Path) -> ConfigError:
        return ConfigError(
            f"run.dir {self.path}: can't be written: {error.strerror or error} ({place}). Set run.dir to a directory "
            "that you may write"
        )

    def write_status(self, state: State, step: int, epoch: int, *, resumable: bool, **more: Any) -> bool:
        """Say how the run is doing; `updated` is UTC. A disk that takes nothing is told of once, and the run goes on.

        Args:
            resumable: whether the same command would go on from here.

        Returns:
            Whether the disk has taken it.
        """
        status = self._status(state, resumable) | {"step": step, "epoch": epoch, **more}
        try:
            write_whole(self.status, json.dumps(status) + "\n")
        except OSError as error:
            if not self._has_warned:
                _log.warning("%s: can't be written: %s; the run goes on", self.status, error.strerror or error)
            self._has_warned = True
            return False
        return True

    def note_early_stop(self) -> None:
        """Say that this process leaves before it has claimed the directory, because it was asked to.

        Nothing is said where no run is known, one is done, or another process trains.
        """
        self._note_end("preempted", resumable=True, early=True)

    def note_refusal(self, message: str) -> None:
        """Say that this process ends before it has claimed the directory, because the same command can't go on.

        Nothing is said where no launcher could start it anew, or as in `note_early_stop`.
        """
        if find_launcher() is not None:
            self._note_end("failed", resumable=False, error=message)

    def _note_end(self, state: State, *, resumable: bool, **more: Any) -> None:
        with suppress(OSError):  # it is only a note
            before = _read_object(self.status) or {"step": 0, "epoch": 0, "attempt": 0}
            if self._is_known() and before.get("state") != "done" and not self.is_held():
                status = self._status(state, resumable) | {"attempt": before.get("attempt", 0), **more}
                write_whole(self.status, json.dumps(before | status) + "\n")

    def _status(self, state: State, resumable: bool) -> dict[str, Any]:
        return {
            "state": state,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._signature(),
            "launcher": find_launcher(),
            "restarts": self._restarts,
            "resumable": resumable,
        }

    def read_status(self) -> dict[str, Any] | None:
        """The content of `status.json`, None where there is none; `state` is `dead` where the writer was killed.

        Of a writer on another machine that can't be told, nor where the file system knows no locks.
        """
        status = _read_object(self.status)
        is_here = status is not None and status.get("host") == socket.gethostname()
        if status and is_here and status.get("state") == "running" and self.is_held() is False:
            return {**status, "state": "dead"}
        return status

    def ended_before_restart(self) -> State | None:
        """How the run has ended for good, where the launcher of this rank starts its ranks anew all the same.

        torchrun takes every exit code for a failure: also that of ranks that were asked to stop (`preempted`), or that
        would end the same way again (`failed`). Known only where the run's directory is.
        """
        status = self._status_of_earlier_ranks() or {}
        # A launcher also tells ranks to leave when another has failed, and one that has not claimed can't know.
        if status.get("state") == "preempted" and not status.get("early"):
            return "preempted"
        return "failed" if status.get("state") == "failed" and not status.get("resumable", True) else None

    def was_begun_before_restart(self) -> bool:
        """Whether the launcher of this rank has started ranks before that have begun this run."""
        return self._status_of_earlier_ranks() is not None

    def _count_restarts(self) -> int:
        """How often this rank's launcher has started its ranks anew, as far as anybody knows."""
        earlier = self._status_of_earlier_ranks() or {}
        counted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        return max(counted, 1 + int(earlier.get("restarts", -1)))

    def _status_of_earlier_ranks(self) -> dict[str, Any] | None:
        """What ranks have left that the launcher of this one has started before it, None where there are none."""
        # TORCHELASTIC_RESTART_COUNT does not tell: an agent that starts its ranks anew because of those of another host
        # counts nothing.
        own = find_launcher()
        try:
            status = _read_object(self.status) if own else None
        except OSError:  # `check_usable` says why
            return None
        return status if status is not None and status.get("launcher") == own else None


def job_id() -> str | None:
    """The scheduler's name of the job that this process belongs to, if it is told one."""
    return os.environ.get("SLURM_JOB_ID")


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old text or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in the first line of a file, None where there is none; raises OSError if it can't be read."""
    try:
        found = json.loads(path.read_bytes().split(b"\n")[0])
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _shown(holder: dict[str, Any]) -> str:
    job = f", job {holder['job_id']}" if holder.get("job_id") else ""
    return f"host {holder.get('host')}, pid {holder.get('pid')}{job}, attempt {holder.get('attempt')}"


def _lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Whether the lock of an open file could be had at once; None where the file system knows no locks."""
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
    """Let go of a lock, also if a fork shares the open file, and close it."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
