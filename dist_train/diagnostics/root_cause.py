"""Find the rank that failed first, and why.

When one rank fails, the others fail as well: they lose their connection to it or wait for it without end. Each rank
leaves a heartbeat, and a failure record if it could still write one. `RunEvidence` collects them, and the rules are:

1. A rank that recorded a failure of its own, such as an exception, is the first; of several, the earliest.
2. Otherwise, a rank whose process is gone without a record was killed.
3. Otherwise, if ranks of this host still run, the run has stalled at the rank that the others wait for.
4. Otherwise, all ranks of this host lost a peer, so the first one is on another host.

`find_known_failure` has the rules 1 and 2, `find_stalled_rank` has 3, and `find_root_cause` decides between all.
"""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dist_train.diagnostics.failure import Cause, Failure, read_failures
from dist_train.diagnostics.heartbeat import Heartbeat, read_heartbeats
from dist_train.diagnostics.stack_traces import (
    Crash,
    is_waiting_for_peers,
    read_crash,
    read_main_frames,
)
from dist_train.diagnostics.verdict import Verdict, find_newest_checkpoint

_PATIENCE, _POLL = 1.5, 0.05  # seconds: time for the record of the first failure to appear; pause between two looks
_DELAY = 0.2  # seconds before the first look, so that a record that another rank has begun to write is complete
_KILLED = (
    "the process ended without an error message, as after SIGKILL (for example by the out-of-memory killer, or by hand)"
)
_KILLED_ALONE = f"{_KILLED}, or after a crash in C code, whose stack it has then printed"
_ABORTED = "the ranks that waited were aborted (SIGABRT), as NCCL's watchdog does after distributed.timeout_minutes"
_ALL_KILLED = "all ranks ended without an error message, as when their launcher or their machine is killed"


@dataclass(frozen=True)
class RunEvidence:
    """What the ranks of one attempt have left, as far as this host can see it."""

    run: Path
    attempt: int
    heartbeats: Mapping[int, Heartbeat]
    failures: Mapping[int, Failure]

    @classmethod
    def read(cls, run: Path, attempt: int | None = None) -> "RunEvidence":
        """Read the evidence of an attempt, by default the newest, from the directory of a run."""
        directory = run / "diagnostics"
        heartbeats = read_heartbeats(directory, attempt)
        if attempt is None:
            attempt = max((each.process.attempt for each in heartbeats.values()), default=0)
        return cls(run, attempt, heartbeats, read_failures(directory, attempt))

    @property
    def world_size(self) -> int:
        recorded = [failure.world_size for failure in self.failures.values()]
        return max([1, *recorded, *(each.process.world_size for each in self.heartbeats.values())])

    @property
    def first_own_failure(self) -> Failure | None:
        """The earliest record of a rank that did not just lose a peer.

        A refusal comes last: all ranks refuse together where the user's code fails on one.
        """
        own = [failure for failure in self.failures.values() if failure.is_own]
        return min(own, key=lambda failure: (failure.kind == "refused", failure.time), default=None)

    @property
    def killed(self) -> list[Heartbeat]:
        """Ranks of this host that are gone without a record, in the order of their last heartbeats.

        Those that NCCL's watchdog has aborted come last: they waited for another.
        """
        gone = [each for each in self._unrecorded if each.phase != "end" and not each.is_alive()]
        return sorted(gone, key=lambda heartbeat: (self.was_aborted(heartbeat), heartbeat.time))

    @property
    def running(self) -> list[Heartbeat]:
        """Ranks of this host that still run and have no record."""
        return [each for each in self._unrecorded if each.is_alive()]

    @property
    def on_other_hosts(self) -> list[int]:
        """Ranks on other hosts, whether this host can see their heartbeats or not."""
        here = {rank for rank, heartbeat in self.heartbeats.items() if heartbeat.is_on_this_host}
        return [rank for rank in range(self.world_size) if rank not in here]

    @property
    def _unrecorded(self) -> list[Heartbeat]:
        here = [each for each in self.heartbeats.values() if each.is_on_this_host]
        return [each for each in here if each.process.rank not in self.failures]

    def was_aborted(self, heartbeat: Heartbeat) -> bool:
        """Whether NCCL's watchdog has ended a rank, because it waited too long for another or lost it."""
        crash = self.read_crash(heartbeat)
        return crash is not None and crash.was_abort_outside_python

    def read_crash(self, heartbeat: Heartbeat) -> Crash | None:
        return read_crash(self.run / "diagnostics", heartbeat.process.rank)

    def is_waiting(self, heartbeat: Heartbeat) -> bool:
        """Whether the stacks of a rank show that it waits for its peers."""
        return is_waiting_for_peers(self.read_frames(heartbeat))

    def read_frames(self, heartbeat: Heartbeat) -> list[str]:
        return read_main_frames(self.run / "diagnostics", heartbeat.process.rank)

    def make_verdict(self, cause: Cause, error: str, first: Failure | Heartbeat | None, overrides: str = "") -> Verdict:
        """Return a verdict that names the rank of `first`; None: the rank is not known."""
        process = first.process if isinstance(first, Heartbeat) else first
        rank = process.rank if process else None
        own = {rank for rank, failure in self.failures.items() if failure.is_own}
        command = next((each.process.next_command for each in self.heartbeats.values()), "")
        return Verdict(
            rank=rank,
            world_size=self.world_size,
            host=process.host if process else None,
            pid=process.pid if process else None,
            phase=first.phase if first else None,
            step=first.step if first else None,
            cause=cause,
            error=error,
            victims=[other for other in range(self.world_size) if other not in own | {rank}],
            next_command=f"{command} {overrides}".rstrip(),
            attempt=self.attempt,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            traceback=first.traceback if isinstance(first, Failure) else "",
            checkpoint=find_newest_checkpoint(self.run),
        )


def find_root_cause(run: Path, attempt: int, ending: Failure) -> Verdict | None:
    """Return the verdict on a failed attempt, after a short wait for the record of the rank that failed first.

    Args:
        ending: the failure of this rank, which counts even if it could not be written.

    Returns:
        None if no verdict is needed: a rank has printed its message, or was asked to stop.
    """
    time.sleep(_DELAY)
    deadline = time.monotonic() + _PATIENCE
    while True:
        evidence = RunEvidence.read(run, attempt)
        evidence = replace(evidence, failures={**evidence.failures, ending.rank: ending})
        if evidence.first_own_failure or evidence.killed:
            return find_known_failure(evidence)
        if time.monotonic() > deadline:
            return find_lost_peer(evidence)
        time.sleep(_POLL)


def find_known_failure(evidence: RunEvidence) -> Verdict | None:
    """Return the verdict on a rank that failed by itself or was killed; None if there is none, or none is needed."""
    own = evidence.first_own_failure
    if own is not None:
        # mypy can't know that a kind that needs a verdict and is no victim is a cause.
        kind: Cause = own.kind  # type: ignore[assignment]
        return evidence.make_verdict(kind, own.error, own, own.overrides) if own.needs_verdict else None
    killed = evidence.killed
    if not killed:
        return None
    if evidence.was_aborted(killed[0]):  # and so were all the others that are gone
        return find_stalled_rank(evidence, _ABORTED)
    crashed = next((each for each in killed if not evidence.was_aborted(each) and evidence.read_crash(each)), None)
    if crashed and (crash := evidence.read_crash(crashed)):
        error = f"the process crashed in C code: {crash.reason}" + ("; its stack:" if crash.frames else "")
        return replace(evidence.make_verdict("killed", error, crashed), traceback="\n".join(crash.frames))
    if len(killed) == evidence.world_size > 1 and not evidence.was_aborted(killed[-1]):
        return replace(evidence.make_verdict("killed", _ALL_KILLED, killed[0]), victims=[])
    return evidence.make_verdict("killed", _KILLED if evidence.world_size > 1 else _KILLED_ALONE, killed[0])


def find_stalled_rank(evidence: RunEvidence, reason: str) -> Verdict:
    """Return the verdict on a run in which ranks still run but make no progress: the rank that the others wait for.

    That is a rank whose process is stopped; else the one that is furthest behind; of several that are equally far, the
    first that does not wait for its peers.
    """
    stopped = [heartbeat for heartbeat in evidence.running if heartbeat.is_stopped()]
    if stopped:
        error = f"{reason}; its process is stopped (SIGSTOP, or a debugger)"
        return evidence.make_verdict("stalled", error, stopped[0])
    if not evidence.running:
        return evidence.make_verdict("stalled", reason, None)
    behind = min(evidence.running, key=lambda each: (each.progress, evidence.is_waiting(each), each.process.rank))
    are_level = behind.progress == max(each.progress for each in evidence.running)
    if evidence.on_other_hosts and are_level and evidence.is_waiting(behind):
        error = f"{reason}; all ranks on host {socket.gethostname()} wait for another"
        return _name_other_host(evidence, "stalled", error)
    frames = evidence.read_frames(behind)
    verdict = evidence.make_verdict("stalled", f"{reason}; its stack:" if frames else reason, behind)
    return replace(verdict, traceback="\n".join(frames))


def find_lost_peer(evidence: RunEvidence) -> Verdict:
    """Return the verdict where the ranks of this host are only victims: the first is stalled, or on another host."""
    errors = [failure.error for failure in evidence.failures.values()]
    has_timed_out = any("timed out" in error.lower() or "timeout" in error.lower() for error in errors)
    if evidence.running and has_timed_out:
        return find_stalled_rank(evidence, "the wait of the other ranks for it timed out")
    detail = f": {errors[0]}" if errors else ""
    if evidence.on_other_hosts:
        error = f"no rank on host {socket.gethostname()} failed by itself{detail}"
        return _name_other_host(evidence, "lost", error)
    first = min(evidence.failures.values(), key=lambda failure: failure.time, default=None)
    return evidence.make_verdict("lost", f"the connection to the other ranks{detail}", first)


def _name_other_host(evidence: RunEvidence, cause: Cause, error: str) -> Verdict:
    """A verdict on a rank of another host, which is named where there is only one."""
    others = evidence.on_other_hosts
    if len(others) == 1 and others[0] in evidence.heartbeats:
        return evidence.make_verdict(cause, error, evidence.heartbeats[others[0]])
    names = ", ".join(f"{rank}({evidence.world_size})" for rank in others)
    verdict = evidence.make_verdict(cause, f"{error}; on other hosts: rank {names}", None)
    return replace(verdict, rank=others[0] if len(others) == 1 else None)
