"""A thread in each rank that ends the process when the run can't continue: a peer is lost, or no rank makes progress.

The main thread may wait in C++ for a peer that never comes; neither an exception nor a Python signal handler can reach
it there. This thread still runs, and ends the process by `os._exit`.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from dist_train.diagnostics.failure import Failure
from dist_train.diagnostics.heartbeat import Heartbeat, HeartbeatFile
from dist_train.diagnostics.root_cause import RunEvidence, find_known_failure, find_stalled_rank
from dist_train.diagnostics.stack_traces import StackFile, has_dumped_stacks, write_process_state
from dist_train.diagnostics.verdict import publish_verdict
from dist_train.system.cpu import WaitMeter
from dist_train.system.process import signal_process

_log = logging.getLogger(__name__)

FAILED = 1
_MAX_POLL = 1.0  # seconds between two looks
_PEERS_AFTER = 5.0  # seconds without progress before the first look at the peers; then twice as many each time
_WAITS_EVERY = 5.0  # seconds of training over which waits for a core are counted
_MANY_WAITS = 0.25  # part of the time; 0.00 to 0.03 on a machine of its own, 0.5 beside two busy programs on two cores
_DUMP_GRACE = 2.0  # seconds beyond a poll that the other ranks have to write their stacks


class Watchdog(threading.Thread):
    """Check about every second whether this rank and its peers make progress."""

    def __init__(self, run: Path, heartbeats: HeartbeatFile, stall_minutes: float | None) -> None:
        """Args: stall_minutes: end the run after this long without progress; None: never."""
        super().__init__(name="dist_train watchdog")
        self._run, self._directory = run, run / "diagnostics"
        self._heartbeats, self._closing = heartbeats, threading.Event()
        self.before_exit: Callable[[], None] | None = None
        """Called before this thread ends the process."""
        self._stall = None if stall_minutes is None else 60 * stall_minutes  # seconds
        self._poll = _MAX_POLL if self._stall is None else min(_MAX_POLL, self._stall / 10)
        self._attempt = heartbeats.process.attempt
        self._rank = heartbeats.process.rank
        self._stall_marker = self._directory / f"stalled_{self._attempt}"
        self._stacks: StackFile | None = None
        self._wait_meter: WaitMeter | None = WaitMeter()
        self._waits_due = 0.0
        self._last = heartbeats.read()
        self._last_change = self._last_look = time.monotonic()
        self._peers_due = _PEERS_AFTER

    def __enter__(self) -> "Watchdog":
        with suppress(OSError):
            self._stacks = StackFile(self._directory, self._last)
        self._schedule_dump()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the thread, which may be about to end the process."""
        self._closing.set()
        self.join()
        if self._stacks:
            self._stacks.close()

    def run(self) -> None:
        while not self._closing.wait(self._poll):
            with suppress(OSError):  # a disk that fails now may answer the next look
                self._look()

    def _look(self) -> None:
        now, heartbeat = time.monotonic(), self._heartbeats.read()
        # A late look means that the whole process did not run (stopped, or starved of CPU): that time does not count.
        is_late = self._stall is not None and now - self._last_look > self._poll + self._stall / 2
        if is_late or heartbeat != self._last:
            self._last_change, self._peers_due = now, _PEERS_AFTER
        self._last, self._last_look = heartbeat, now
        self._schedule_dump()
        self._check_waits(now)
        idle = now - self._last_change
        if self._stall_marker.exists() or self._is_stalled(idle):
            self._end_stalled_run()
        if idle > self._peers_due:
            self._peers_due *= 2  # ranks that wait for a long save should not read each other's files all the time
            self._end_if_peer_failed()

    def _check_waits(self, now: float) -> None:
        """Say once, on rank 0, if this rank's threads wait for a core much of the time."""
        if self._wait_meter is None or self._last.phase == "start" or self._rank != 0 or now < self._waits_due:
            return
        is_first, share = self._waits_due == 0.0, self._wait_meter.share_waited()
        self._waits_due = now + _WAITS_EVERY
        if not is_first and share > _MANY_WAITS:
            self._wait_meter = None
            _log.warning(
                "the threads of this rank wait %.0f %% of the time for a core, because other programs or ranks use "
                "them. Stop those, or resume with a smaller distributed.threads, such as 1: threads wait for each "
                "other (bits of the result may differ then)",
                100 * share,
            )

    def _schedule_dump(self) -> None:
        """Have the stacks written before the stall is noticed, even if this thread can't run then."""
        if self._stacks and self._stall:
            self._stacks.dump_later(0.9 * self._stall)

    def _is_stalled(self, idle: float) -> bool:
        """Whether this rank has not moved for too long; a start may load data and compile for longer."""
        return self._stall is not None and self._last.phase != "start" and idle > self._stall

    def _end_if_peer_failed(self) -> None:
        evidence = RunEvidence.read(self._run, self._attempt)
        verdict = find_known_failure(evidence)
        if verdict:
            publish_verdict(self._run, verdict)
        if verdict or evidence.first_own_failure:
            self._exit("a peer has failed")

    def _end_stalled_run(self) -> NoReturn:
        """Write the stacks, publish the verdict, and end this rank and those that can't end themselves.

        The marker file makes all ranks of the attempt do this together. Of those that can run Python, the lowest one
        looks after those that can't.
        """
        with suppress(OSError):
            self._stall_marker.touch()
        if self._stacks:
            self._stacks.dump()
        stuck = self._wait_for_stacks()
        stuck_ranks = {heartbeat.process.rank for heartbeat in stuck}
        able_peers = [each for each in self._running_peers() if each.process.rank not in stuck_ranks]
        is_first = all(each.process.rank > self._rank for each in able_peers)
        if is_first:
            for heartbeat in stuck:
                write_process_state(self._directory, heartbeat)
        reason = f"no progress for {(self._stall or 0) / 60:g} minutes"
        publish_verdict(self._run, find_stalled_rank(RunEvidence.read(self._run, self._attempt), reason))
        if is_first:
            for heartbeat in stuck:
                _kill(heartbeat)
        self._exit("the run has stalled")

    def _wait_for_stacks(self) -> list[Heartbeat]:
        """Give the running peers on this host time to write their stacks; returns those that have not."""
        deadline = time.monotonic() + self._poll + _DUMP_GRACE
        while (stuck := self._peers_without_stacks()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return stuck

    def _peers_without_stacks(self) -> list[Heartbeat]:
        return [each for each in self._running_peers() if not has_dumped_stacks(self._directory, each.process.rank)]

    def _running_peers(self) -> list[Heartbeat]:
        running = RunEvidence.read(self._run, self._attempt).running
        return [heartbeat for heartbeat in running if heartbeat.process.rank != self._rank]

    def _exit(self, reason: str) -> NoReturn:
        """Record this rank as a victim and end its process."""
        with suppress(OSError):
            Failure.from_heartbeat(self._heartbeats.read(), "victim", reason).write(self._directory)
        try:
            if self.before_exit:
                self.before_exit()
        finally:
            os._exit(FAILED)


def _kill(heartbeat: Heartbeat) -> None:
    """Kill a rank, if the process is still the one that wrote the heartbeat."""
    with suppress(PermissionError):
        signal_process(heartbeat.process.pid, signal.SIGKILL, heartbeat.is_alive)
