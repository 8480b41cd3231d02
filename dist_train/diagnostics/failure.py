"""Failure records: how a rank ended, in `diagnostics/failure_rank_R.json`, and what an exception means."""

import json
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dist_train.diagnostics.heartbeat import MAX_RANKS, Heartbeat
from dist_train.errors import DataError, NonFiniteError, OwnCodeError, SaveError, UserError
from dist_train.run_dir import write_atomically
from dist_train.system.read_file import find_files, parse_record, read_bytes
from dist_train.system.stop_signals import StopRequested

Cause = Literal["exception", "killed", "stalled", "non_finite", "loader", "lost"]
"""Why a run failed, as the verdict names it."""
Kind = Cause | Literal["victim", "refused", "interrupted"]
"""How a rank ended: by a cause of its own; as the victim of a lost peer; by a UserError, which is printed as it is; or
because it was asked to stop."""

# What Gloo, NCCL and torchrun's store report when a peer is lost or does not come.
_PEER_ERROR_TYPES = ("DistNetworkError", "DistBackendError", "DistStoreError")
_PEER_ERROR_TEXTS = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "remote process exited",
    "application timeout caused pair closure",
    "nccl communicator was aborted",
    "socket timeout",
    "timed out waiting",
    "wait timeout",
)
_LOADER_ERROR_TEXTS = ("DataLoader worker (pid", "in DataLoader worker process", "in pin memory thread")
_MAX_LENGTH = 2000  # characters of an error in one line


@dataclass(frozen=True)
class Failure:
    """How a rank ended, as the rank itself recorded it."""

    time: float
    """Seconds since 1970."""
    rank: int
    world_size: int
    attempt: int
    host: str
    pid: int
    phase: str
    step: int
    kind: Kind
    error: str
    """One line, such as `ValueError: bad value`."""
    traceback: str = ""
    overrides: str = ""
    """Settings worth trying in the next command."""

    @classmethod
    def from_error(cls, error: BaseException, heartbeat: Heartbeat) -> "Failure":
        # The message of a SaveError is complete: the disk has failed, not a line of the program. That of an
        # OwnCodeError has the frames of the user's code.
        frames = "" if isinstance(error, SaveError | OwnCodeError) else "".join(traceback.format_exception(error))
        frames = str(error) if isinstance(error, OwnCodeError) else frames
        overrides = error.overrides if isinstance(error, NonFiniteError) else ""
        return cls.from_heartbeat(
            heartbeat, classify(error, heartbeat.phase), format_error(error), frames, overrides
        )  # fmt: skip

    @classmethod
    def from_heartbeat(
        cls, heartbeat: Heartbeat, kind: Kind, error: str, frames: str = "", overrides: str = ""
    ) -> "Failure":
        process = heartbeat.process
        return cls(
            time.time(), process.rank, process.world_size, process.attempt, process.host, process.pid,
            heartbeat.phase, heartbeat.step, kind, error, frames, overrides,
        )  # fmt: skip

    @property
    def is_own(self) -> bool:
        """Whether the rank ended for a reason of its own, not because it lost a peer."""
        return self.kind != "victim"

    @property
    def needs_verdict(self) -> bool:
        """Whether the end is unexpected: it was not requested, and no message about it is printed anyway."""
        return self.kind not in ("refused", "interrupted")

    def write(self, directory: Path) -> None:
        """Raises OSError."""
        write_atomically(_path(directory, self.rank), json.dumps(asdict(self), indent=2) + "\n")


def read_failures(directory: Path, attempt: int) -> dict[int, Failure]:
    """Return the failure records of one attempt by rank."""
    paths = [path for path in find_files(directory) if path.match("failure_rank_*.json")]
    failures = [failure for path in paths if (failure := _read(path))]
    return {failure.rank: failure for failure in failures if failure.attempt == attempt}


def classify(error: BaseException, phase: str) -> Kind:
    """Tell from the type and text of an exception how it ended a rank, without importing torch."""
    text = str(error)
    if isinstance(error, KeyboardInterrupt | StopRequested):
        return "interrupted"
    if isinstance(error, NonFiniteError):
        return "non_finite" if error.is_own else "victim"
    if isinstance(error, DataError) and phase != "start":
        return "loader"
    if isinstance(error, UserError):
        return "refused"
    if any(words in text for words in _LOADER_ERROR_TEXTS):
        return "loader"
    return "victim" if _is_peer_error(type(error).__name__, text) else "exception"


def format_error(error: BaseException) -> str:
    """Return the error in one line, such as `ValueError: bad value`.

    An error of the user's code, or in a worker of the loader, is shown by its first and its last line.
    """
    text = str(error)
    if "Original Traceback" in text or isinstance(error, OwnCodeError):
        lines = text.strip().splitlines()
        text = f"{lines[0]} {lines[-1]}"
    text = " ".join(text.split())[:_MAX_LENGTH]
    if isinstance(error, UserError | NonFiniteError | OwnCodeError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_peer_error(name: str, text: str) -> bool:
    # A RuntimeError is known by its text only. An OSError with such a text has another origin, such as a download.
    has_peer_text = any(words in text.lower() for words in _PEER_ERROR_TEXTS)
    return name in _PEER_ERROR_TYPES or (name == "RuntimeError" and has_peer_text)


def _path(directory: Path, rank: int) -> Path:
    return directory / f"failure_rank_{rank}.json"


def _read(path: Path) -> Failure | None:
    try:
        failure = parse_record(Failure, read_bytes(path))
    except (OSError, ValueError):
        return None
    return failure if 0 <= failure.rank < failure.world_size <= MAX_RANKS else None
