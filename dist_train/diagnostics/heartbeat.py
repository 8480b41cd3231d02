"""Heartbeats: the phase and step of each rank, in a file that remains when its process is killed.

`diagnostics/rank_R.beat` is mapped into memory: a write takes a microsecond and no system call, and the kernel keeps
the last one when the process is killed. The file also identifies its process, so that a later process with the same
pid is not mistaken for it.
"""

import json
import math
import mmap
import os
import socket
import struct
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from dist_train.system.process import read_process_stat, read_process_state
from dist_train.system.read_file import find_files, parse_record, read_bytes

Phase = Literal["start", "evaluate", "save", "data", "forward", "backward", "update", "end"]
"""The phases of a step, in the order in which a rank passes through them.

`Heartbeat.step` counts finished steps, so the evaluation and the save after step n and the data of the next step all
have the number n, and come in this order. Ranks wait for each other in `evaluate`, `save` and `backward`.
"""
PHASES: tuple[Phase, ...] = get_args(Phase)
MAX_RANKS = 2**17  # of a record that is believed
_NUMBERS = {phase: number for number, phase in enumerate(PHASES)}
_CHANGING = struct.Struct("<qqd")  # number of the phase, step, time
_HEADER = 64  # bytes before the JSON of the process
_STOPPED = ("T", "t")  # states of a process in /proc


class RankId(Protocol):
    """The number of a rank and the number of ranks, as in `World`."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class RankProcess:
    """The process of a rank."""

    rank: int
    world_size: int
    host: str
    pid: int
    started: int
    """Start of the process in clock ticks after boot, from /proc; 0 without /proc."""
    attempt: int
    """Number of this start of the run, from 1."""
    next_command: str
    """Command that resumes the run after a failure."""

    @classmethod
    def current(cls, rank_id: RankId, attempt: int, next_command: str) -> "RankProcess":
        pid = os.getpid()
        stat = read_process_stat(pid)
        started = stat[1] if stat else 0
        return cls(rank_id.rank, rank_id.size, socket.gethostname(), pid, started, attempt, next_command)

    @property
    def name(self) -> str:
        """Rank and world size, such as `2(4)`."""
        return f"{self.rank}({self.world_size})"


@dataclass(frozen=True)
class Heartbeat:
    """The last recorded phase and step of a rank."""

    process: RankProcess
    phase: Phase
    step: int
    """Number of finished steps."""
    time: float
    """Seconds since 1970."""

    @property
    def is_on_this_host(self) -> bool:
        return self.process.host == socket.gethostname()

    @property
    def progress(self) -> tuple[int, int]:
        """A key that orders ranks by how far they have come."""
        return (self.step, _NUMBERS[self.phase])

    def is_alive(self) -> bool:
        """Whether the process still runs on this host."""
        return read_process_state(self.process.pid, self.process.started) != "X"

    def is_stopped(self) -> bool:
        """Whether the process is stopped by SIGSTOP or a debugger."""
        return read_process_state(self.process.pid, self.process.started) in _STOPPED


class HeartbeatFile:
    """The heartbeat file of this rank; where the disk refuses it, the heartbeat stays in memory."""

    def __init__(self, directory: Path, process: RankProcess) -> None:
        self.process = process
        content = bytearray(_HEADER) + json.dumps(asdict(process)).encode()
        _CHANGING.pack_into(content, 0, _NUMBERS["start"], 0, time.time())
        self._map = _map_file(directory / f"rank_{process.rank}.beat", content)

    def mark(self, phase: Phase, step: int) -> None:
        """Record that the rank is in `phase` after `step` finished steps."""
        _CHANGING.pack_into(self._map, 0, _NUMBERS[phase], step, time.time())

    def read(self) -> Heartbeat:
        """Return what was recorded last."""
        phase, step, when = _CHANGING.unpack_from(self._map)
        return Heartbeat(self.process, PHASES[phase], step, when)

    def close(self) -> None:
        self._map.close()


def read_heartbeats(directory: Path, attempt: int | None = None) -> dict[int, Heartbeat]:
    """Return the heartbeats in a directory by rank: those of one attempt, by default the newest."""
    paths = [path for path in find_files(directory) if path.match("rank_*.beat")]
    heartbeats = [found for path in paths if (found := _read(path))]
    if attempt is None:
        attempt = max((each.process.attempt for each in heartbeats), default=0)
    return {each.process.rank: each for each in heartbeats if each.process.attempt == attempt}


def _map_file(path: Path, content: bytearray) -> mmap.mmap:
    """Create a file with this content and map it; anonymous memory where the file can't be created."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A new file, because another process may still map the old one. It is written in full before it is mapped:
        # a write to a mapped page for which the disk has no room kills the process.
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(content)
        with temporary.open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), len(content))
        temporary.replace(path)
    except OSError:
        mapped = mmap.mmap(-1, len(content))
        mapped[:] = content
    return mapped


def _read(path: Path) -> Heartbeat | None:
    """The heartbeat in a file; None where the file is damaged."""
    try:
        content = read_bytes(path)
        phase, step, when = _CHANGING.unpack_from(content)
        process = parse_record(RankProcess, content[_HEADER:])
        is_possible = 0 <= process.rank < process.world_size <= MAX_RANKS and math.isfinite(when)
        return Heartbeat(process, PHASES[phase], step, when) if is_possible else None
    except (OSError, ValueError, IndexError, struct.error):
        return None
