"""What a rank says of its own end, in `diagnostics/failure_rank_R.json`, and whether the end is its own fault."""

import json
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dist_train.diagnostics.heartbeat import Heartbeat
from dist_train.errors import DataError, NonFiniteError, SaveError, UserError
from dist_train.run_dir import write_whole
from dist_train.system.stop_signals import StopRequested

Cause = Literal["exception", "killed", "stalled", "non_finite", "loader", "lost"]
Kind = Cause | Literal["victim", "refused", "interrupted"]
"""A cause, or what is no failure of the rank's own: it lost a peer, refused with a message that is printed as it
stands, or was told to end."""

# What Gloo, NCCL and the store of torchrun say when a peer has gone, or does not come.
_PEER_ERRORS = ("DistNetworkError", "DistBackendError", "DistStoreError")
_PEER_WORDS = (
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
_LOADER_WORDS = ("DataLoader worker (pid", "in DataLoader worker process", "in pin memory thread")
_MOST = 2000  # characters of an error in one line


@dataclass(frozen=True)
class Failure:
    """The end of a rank, in its own words."""

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
    """One line: `ValueError: its text`."""
    traceback: str = ""
    overrides: str = ""
    """Settings worth trying in the next command."""

    @classmethod
    def of(cls, error: BaseException, beat: Heartbeat) -> "Failure":
        # A SaveError says all that there is to say: it is the disk's fault, and no line of the program's.
        whole = "" if isinstance(error, SaveError) else "".join(traceback.format_exception(error))
        overrides = error.overrides if isinstance(error, NonFiniteError) else ""
        return cls.at(beat, kind_of(error, beat.phase), one_line(error), whole, overrides)

    @classmethod
    def at(cls, beat: Heartbeat, kind: Kind, error: str, whole: str = "", overrides: str = "") -> "Failure":
        origin = beat.origin
        return cls(
            time.time(), origin.rank, origin.world_size, origin.attempt, origin.host, origin.pid,
            beat.phase, beat.step, kind, error, whole, overrides,
        )  # fmt: skip

    @property
    def is_own(self) -> bool:
        """Whether the rank has not just lost a peer."""
        return self.kind != "victim"

    @property
    def is_silent(self) -> bool:
        """Whether nothing is to be judged: a message is printed already, or somebody wanted the end."""
        return self.kind in ("refused", "interrupted")

    def write(self, directory: Path) -> None:
        """Raises OSError."""
        write_whole(_path(directory, self.rank), json.dumps(asdict(self), indent=2) + "\n")


def read_failures(directory: Path, attempt: int) -> dict[int, Failure]:
    """What the ranks of one attempt have left, by rank."""
    found = [failure for path in directory.glob("failure_rank_*.json") if (failure := _read(path))]
    return {failure.rank: failure for failure in found if failure.attempt == attempt}


def kind_of(error: BaseException, phase: str) -> Kind:
    """What an exception that ends a rank means, by its type and text; torch is not needed for that."""
    text = str(error)
    if not isinstance(error, Exception) or isinstance(error, StopRequested):
        return "interrupted"
    if isinstance(error, NonFiniteError):
        return "non_finite" if error.is_own else "victim"
    if isinstance(error, DataError) and phase != "start":
        return "loader"
    if isinstance(error, UserError):
        return "refused"
    if any(words in text for words in _LOADER_WORDS):
        return "loader"
    return "victim" if _is_of_peers(type(error).__name__, text) else "exception"


def one_line(error: BaseException) -> str:
    """`ValueError: its text`; of an error that a loader's worker has raised, where it was and what it was."""
    text = str(error)
    if "Original Traceback" in text:
        lines = text.strip().splitlines()
        text = f"{lines[0]} {lines[-1]}"
    text = " ".join(text.split())[:_MOST]
    if isinstance(error, UserError | NonFiniteError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_of_peers(name: str, text: str) -> bool:
    # Of a RuntimeError only the text tells; an OSError with such a text is of something else, a download for one.
    said = any(words in text.lower() for words in _PEER_WORDS)
    return name in _PEER_ERRORS or (name == "RuntimeError" and said)


def _path(directory: Path, rank: int) -> Path:
    return directory / f"failure_rank_{rank}.json"


def _read(path: Path) -> Failure | None:
    try:
        return Failure(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
