"""The last sign of life of each rank: a small file that outlives its process, however that ends.

`diagnostics/rank_R.beat` is mapped into memory: to note where a rank is costs a microsecond and no system call, and the
kernel keeps what was noted when the process is killed. Who writes it stands in the file, so that a process is never
taken for another one that has got its number since.
"""

import json
import mmap
import os
import socket
import struct
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from dist_train.system.process import state_and_start

Phase = Literal["start", "evaluate", "save", "data", "forward", "backward", "update", "end"]
"""What a rank is about, in the order in which a step passes through them.

A step's number is that of the steps finished before it, so the evaluation and the save after step n and the data of the
next bear the same number, and come in this order. Peers wait for each other in `evaluate`, `save` and `backward`.
"""
PHASES: tuple[Phase, ...] = get_args(Phase)
_NUMBERS = {phase: number for number, phase in enumerate(PHASES)}
_MOVING = struct.Struct("<qqd")  # number of the phase, step, time
_FIXED = 64  # bytes before the JSON of the origin


class RankId(Protocol):
    """Which rank this is, of how many."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class RankProcess:
    """The process that a beat is of."""

    rank: int
    world_size: int
    host: str
    pid: int
    started: int
    """When the process started, as /proc counts it; 0 without /proc."""
    attempt: int
    """Number of the start of the run that this process belongs to."""
    next_command: str
    """What goes on with the run after a failure."""

    @classmethod
    def current(cls, rank_id: RankId, attempt: int, next_command: str) -> "RankProcess":
        pid = os.getpid()
        stat = state_and_start(pid)
        started = stat[1] if stat else 0
        return cls(rank_id.rank, rank_id.size, socket.gethostname(), pid, started, attempt, next_command)

    @property
    def name(self) -> str:
        """As ranks are named everywhere: `2(4)`."""
        return f"{self.rank}({self.world_size})"


@dataclass(frozen=True)
class Heartbeat:
    """Where a rank was at its last sign of life."""

    origin: RankProcess
    phase: Phase
    step: int
    time: float
    """Seconds since 1970."""

    @property
    def is_here(self) -> bool:
        """Whether the process is, or was, on this machine."""
        return self.origin.host == socket.gethostname()

    @property
    def progress(self) -> tuple[int, int]:
        """Greater the further the rank has come."""
        return (self.step, _NUMBERS[self.phase])

    def state(self) -> str:
        """The state of the process on this machine: a letter of /proc such as R, S or T, and X when it is gone."""
        return process_state(self.origin.pid, self.origin.started)


class HeartbeatFile:
    """This rank's beat. Where no file can be made, the beat is kept in memory: nothing may fail for its sake."""

    def __init__(self, directory: Path, origin: RankProcess) -> None:
        self.origin = origin
        content = bytearray(_FIXED) + json.dumps(asdict(origin)).encode()
        _MOVING.pack_into(content, 0, _NUMBERS["start"], 0, time.time())
        self._map = _mapped(directory / f"rank_{origin.rank}.beat", content)

    def mark(self, phase: Phase, step: int) -> None:
        """Note that the rank has come here."""
        _MOVING.pack_into(self._map, 0, _NUMBERS[phase], step, time.time())

    def now(self) -> Heartbeat:
        """What was noted last."""
        phase, step, when = _MOVING.unpack_from(self._map)
        return Heartbeat(self.origin, PHASES[phase], step, when)

    def close(self) -> None:
        self._map.close()


def read_heartbeats(directory: Path, attempt: int | None = None) -> dict[int, Heartbeat]:
    """The beats in a directory by rank: those of one attempt, by default of the newest that is there."""
    beats = [beat for path in directory.glob("rank_*.beat") if (beat := _read(path))]
    if attempt is None:
        attempt = max((beat.origin.attempt for beat in beats), default=0)
    return {beat.origin.rank: beat for beat in beats if beat.origin.attempt == attempt}


def process_state(pid: int, started: int) -> str:
    """The letter that /proc has for a process, X when it is gone, a zombie, or another process has its number now."""
    if not Path("/proc/self/stat").exists():  # not a Linux
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "X"
        return "S"
    stat = state_and_start(pid)
    return "X" if stat is None or stat[1] != started or stat[0] == "Z" else stat[0]


def _mapped(path: Path, content: bytearray) -> mmap.mmap:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A new file: whoever still maps an old one writes into that. All bytes are written before they are mapped,
        # since a write to a mapped byte for which the disk has no room ends the process.
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_bytes(content)
        with aside.open("r+b") as file:
            found = mmap.mmap(file.fileno(), len(content))
        aside.replace(path)
    except OSError:
        found = mmap.mmap(-1, len(content))
        found[:] = content
    return found


def _read(path: Path) -> Heartbeat | None:
    """The beat in a file; None where it holds none."""
    try:
        content = path.read_bytes()
        phase, step, when = _MOVING.unpack_from(content)
        return Heartbeat(RankProcess(**json.loads(content[_FIXED:])), PHASES[phase], step, when)
    except (OSError, ValueError, TypeError, IndexError, struct.error):
        return None
