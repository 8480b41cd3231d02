"""A thread in each rank that ends it when the run can't go on: a peer has gone, or nobody makes progress.

The main thread may wait in C++ for a peer that never comes, where neither an exception nor a handler of a signal in
Python reaches it. This thread runs all the same, and ends the process by `os._exit`.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from dist_train.diagnostics.failure import Failure, Kind
from dist_train.diagnostics.heartbeat import Heartbeat, HeartbeatFile
from dist_train.diagnostics.root_cause import RunEvidence, first_failure, judge_stall, publish
from dist_train.diagnostics.stack_traces import StackFile, has_answered, write_process_state

FAILED = 1
_LONGEST_POLL = 1.0  # seconds between two looks
_PEERS_AFTER = 5.0  # seconds without progress after which the peers are looked at, then after twice as many
_GRACE = 2.0  # seconds beyond a poll that the stacks of the others may take


class Watchdog(threading.Thread):
    """Looks about every second whether this rank, and the run, go on."""

    def __init__(self, run: Path, beats: HeartbeatFile, stall_minutes: float | None) -> None:
        """Args: stall_minutes: without progress, after which the run is ended; None: never for that."""
        super().__init__(name="dist_train watchdog")
        self._run, self._directory = run, run / "diagnostics"
        self._beats, self._closing = beats, threading.Event()
        self.on_end: Callable[[], None] | None = None
        """Called before this thread ends the process."""
        self._stall = None if stall_minutes is None else 60 * stall_minutes
        self._poll = _LONGEST_POLL if self._stall is None else min(_LONGEST_POLL, self._stall / 10)
        self._marker = self._directory / f"stalled_{beats.origin.attempt}"
        self._stacks: StackFile | None = None
        self._seen = beats.now()
        self._since = self._looked = time.monotonic()
        self._peers_due = _PEERS_AFTER

    def __enter__(self) -> "Watchdog":
        with suppress(OSError):
            self._stacks = StackFile(self._directory, self._seen)
        self._dump_later()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the thread, which may be about to end the process."""
        self._closing.set()
        self.join()
        if self._stacks:
            self._stacks.close()

    def run(self) -> None:
        while not self._closing.wait(self._poll):
            with suppress(OSError):  # a disk that does not answer now may do so at the next look
                self._look()

    def _look(self) -> None:
        now, beat = time.monotonic(), self._beats.now()
        # Late looks mean that the whole process did not run, stopped or starved: that time does not count.
        was_late = self._stall is not None and now - self._looked > self._poll + self._stall / 2
        if was_late or beat != self._seen:
            self._since, self._peers_due = now, _PEERS_AFTER
        self._seen, self._looked = beat, now
        self._dump_later()
        if self._marker.exists() or self._is_stalled(now - self._since):
            self._end_stalled()
        if now - self._since > self._peers_due:
            self._peers_due *= 2  # many ranks that wait for a long save must not read each other's files all the time
            self._end_as_victim()

    def _dump_later(self) -> None:
        """Have the stacks written even if this thread can't run, before the others look for them."""
        if self._stacks and self._stall:
            self._stacks.dump_later(0.9 * self._stall)

    def _is_stalled(self, still: float) -> bool:
        """Whether this rank has begun and has not moved for too long; a start may load and compile for long."""
        return self._stall is not None and self._seen.phase != "start" and still > self._stall

    def _end_as_victim(self) -> None:
        """End this rank if a peer is known to have failed."""
        scene = RunEvidence.of(self._run, self._seen.origin.attempt)
        verdict = first_failure(scene)
        if verdict:
            publish(self._run, verdict)
        if verdict or scene.first_own:
            self._end("victim", "a peer has failed", FAILED)

    def _end_stalled(self) -> NoReturn:
        """Write the stacks, and end this rank and those that can't end themselves."""
        with suppress(OSError):
            self._marker.touch()
        if self._stacks:
            self._stacks.dump()
        origin = self._seen.origin
        silent = self._wait_for_stacks()
        unable = {beat.origin.rank for beat in silent}
        is_first = all(beat.origin.rank > origin.rank for beat in self._peers() if beat.origin.rank not in unable)
        if is_first:
            for beat in silent:
                write_process_state(self._directory, beat)
        minutes = (self._stall or 0) / 60
        publish(
            self._run, judge_stall(RunEvidence.of(self._run, origin.attempt), f"no progress for {minutes:g} minutes")
        )
        if is_first:
            for beat in silent:
                _kill(beat)
        self._end("victim", "the run has stalled", FAILED)

    def _wait_for_stacks(self) -> list[Heartbeat]:
        """Give the living ranks of this machine time to write their stacks; returns those that have not."""
        deadline = time.monotonic() + self._poll + _GRACE
        while (silent := self._silent()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return silent

    def _silent(self) -> list[Heartbeat]:
        return [beat for beat in self._peers() if not has_answered(self._directory, beat.origin.rank)]

    def _peers(self) -> list[Heartbeat]:
        living = RunEvidence.of(self._run, self._seen.origin.attempt).living
        return [beat for beat in living if beat.origin.rank != self._seen.origin.rank]

    def _end(self, kind: Kind, reason: str, code: int) -> NoReturn:
        with suppress(OSError):
            Failure.at(self._beats.now(), kind, reason).write(self._directory)
        try:
            if self.on_end:
                self.on_end()
        finally:
            os._exit(code)


def _kill(beat: Heartbeat) -> None:
    """End a rank of this run, if the process is still the one that wrote the beat."""
    if beat.state() != "X":
        with suppress(ProcessLookupError, PermissionError):
            os.kill(beat.origin.pid, signal.SIGKILL)
