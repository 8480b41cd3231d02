"""Who failed first, and why: one verdict for all ranks, from what they and the system have left.

`judge` and `judge_stall` look at beats, at records of failures and at /proc. `publish` lets the first verdict of an
attempt stand, so one screen is printed, whichever ranks are left to print it.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dist_train.diagnostics.failure import Cause, Failure, read_failures
from dist_train.diagnostics.heartbeat import Heartbeat, read_heartbeats
from dist_train.diagnostics.stack_traces import frames_of_main, is_waiting

_SHOWN = 12  # lines of a traceback
_PATIENCE, _POLL = 1.5, 0.05  # seconds: for the word of the rank that failed first; between two looks
_SETTLE = 0.2  # seconds in which a record that was begun earlier appears
_STOPPED = ("T", "t")


@dataclass(frozen=True)
class Verdict:
    """The first failing rank, and what is known of its end."""

    rank: int | None
    """None where all that is known is that it is on another host."""
    world_size: int
    host: str | None
    pid: int | None
    phase: str | None
    step: int | None
    """Steps that were finished before."""
    cause: Cause
    error: str
    victims: list[int]
    """Ranks that ended, or could not go on, only because of the first."""
    next_command: str
    attempt: int
    time: str
    """UTC."""
    traceback: str = ""
    checkpoint: int | None = None
    """Step of the newest checkpoint, None where there is none."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def screen(self, run: Path) -> str:
        """What is printed of a run that lies in `run`."""
        if self.rank is None:
            first = "a rank on another host"
        else:
            place = f"on host {self.host}, pid {self.pid}" if self.host else "on another host"
            first = f"rank {self.rank}({self.world_size}) {place}"
        rows = [
            ("first failed", first),
            ("where", self._where()),
            ("cause", f"{self.cause}: {self.error}"),
            *(("", line) for line in self._shown_frames()),
            ("victims", ", ".join(f"rank {rank}({self.world_size})" for rank in self.victims)),
            ("diagnostics", str(_path(run)) if _path(run).exists() else ""),
            ("next", f"{self.next_command}   ({self._goes_on()})" if self.next_command else ""),
        ]
        lines = [f"{name:<14} {text}".rstrip() for name, text in rows if text]
        return "\n".join([f"---- {run.name}: the run failed ----", *lines])

    def _where(self) -> str:
        """In the number that the ledger and the metrics have for the step: a step in progress is not finished."""
        if self.phase is None or self.step is None:
            return ""
        is_between = self.phase in ("start", "evaluate", "save", "end")
        return f"{self.phase} after step {self.step}" if is_between else f"{self.phase} of step {self.step + 1}"

    def _shown_frames(self) -> list[str]:
        """The end of the traceback where the error alone does not say enough."""
        if self.cause not in ("exception", "stalled"):
            return []
        lines = self.traceback.rpartition("Traceback (most recent call last):\n")[2].splitlines()
        return [line for line in lines if line.startswith("  ") and line.strip(" ^~")][-_SHOWN:]

    def _goes_on(self) -> str:
        return "starts at step 0" if self.checkpoint is None else f"goes on from step {self.checkpoint}"


@dataclass(frozen=True)
class RunEvidence:
    """What is known of one attempt of a run on this machine."""

    run: Path
    attempt: int
    beats: Mapping[int, Heartbeat]
    failures: Mapping[int, Failure]
    exit_codes: Mapping[int, int]

    @classmethod
    def of(cls, run: Path, attempt: int | None = None, exit_codes: Mapping[int, int] | None = None) -> "RunEvidence":
        """Look at a run, by default at its newest attempt; `exit_codes` by rank, as a launcher knows them."""
        directory = run / "diagnostics"
        beats = read_heartbeats(directory, attempt)
        if attempt is None:
            attempt = max((beat.origin.attempt for beat in beats.values()), default=0)
        return cls(run, attempt, beats, read_failures(directory, attempt), exit_codes or {})

    @property
    def world_size(self) -> int:
        known = [failure.world_size for failure in self.failures.values()]
        return max([1, *known, *(beat.origin.world_size for beat in self.beats.values())])

    @property
    def first_own(self) -> Failure | None:
        """The earliest record of a rank that did not just lose a peer."""
        own = [failure for failure in self.failures.values() if failure.is_own]
        return min(own, key=lambda failure: failure.time, default=None)

    @property
    def dead(self) -> list[Heartbeat]:
        """Ranks of this machine that are gone without a word; those that a launcher ended last."""
        gone = [beat for beat in self._without_word if beat.phase != "end" and beat.state() == "X"]
        return sorted(gone, key=lambda beat: (self.exit_codes.get(beat.origin.rank) == -15, beat.time))

    @property
    def living(self) -> list[Heartbeat]:
        """Ranks of this machine that are still there and have said nothing."""
        return [beat for beat in self._without_word if beat.state() != "X"]

    @property
    def elsewhere(self) -> list[int]:
        """Ranks on other machines, whether their beats can be seen here or not."""
        here = {rank for rank, beat in self.beats.items() if beat.is_here}
        return [rank for rank in range(self.world_size) if rank not in here]

    @property
    def _without_word(self) -> list[Heartbeat]:
        return [beat for rank, beat in self.beats.items() if beat.is_here and rank not in self.failures]

    def verdict(self, cause: Cause, error: str, first: Failure | Heartbeat | None, overrides: str = "") -> Verdict:
        """A verdict on the rank that `first` is of."""
        origin = first.origin if isinstance(first, Heartbeat) else first
        own = {rank for rank, failure in self.failures.items() if failure.is_own}
        command = next((beat.origin.next_command for beat in self.beats.values()), "")
        rank = origin.rank if origin else None
        return Verdict(
            rank=rank,
            world_size=self.world_size,
            host=origin.host if origin else None,
            pid=origin.pid if origin else None,
            phase=first.phase if first else None,
            step=first.step if first else None,
            cause=cause,
            error=error,
            victims=[other for other in range(self.world_size) if other not in own | {rank}],
            next_command=f"{command} {overrides}".rstrip(),
            attempt=self.attempt,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            traceback=first.traceback if isinstance(first, Failure) else "",
            checkpoint=newest_checkpoint(self.run),
        )


def first_failure(scene: RunEvidence) -> Verdict | None:
    """The verdict where a rank is known to have failed of itself; None where none is, or nothing is to be judged."""
    own = scene.first_own
    if own is not None:
        # mypy can't tell that what is neither silent nor a victim is a cause.
        return None if own.is_silent else scene.verdict(own.kind, own.error, own, own.overrides)  # type: ignore[arg-type]
    if scene.dead:
        first = scene.dead[0]
        if len(scene.dead) == scene.world_size > 1 and not scene.exit_codes:
            error = "all ranks ended without a word, as when their launcher or their machine is killed"
            return replace(scene.verdict("killed", error, first), victims=[])
        return scene.verdict("killed", _last_words(scene.exit_codes.get(first.origin.rank)), first)
    return None


def judge(
    run: Path,
    attempt: int | None = None,
    exit_codes: Mapping[int, int] | None = None,
    ending: Failure | None = None,
) -> Verdict | None:
    """The verdict on a failed attempt, by default the newest; waits a moment for the word of the first that failed.

    Args:
        exit_codes: by rank, as far as a launcher knows them; negative for a signal.
        ending: how this rank itself ends, which counts even if no disk has taken it.

    Returns:
        None where nothing is to be judged: a rank has refused with a message, or somebody wanted the end.
    """
    time.sleep(_SETTLE)
    deadline = time.monotonic() + _PATIENCE
    while True:
        scene = RunEvidence.of(run, attempt, exit_codes)
        if ending:
            scene = replace(scene, failures={**scene.failures, ending.rank: ending})
        if scene.first_own or scene.dead:
            return first_failure(scene)
        if time.monotonic() > deadline:
            return judge_lost(scene)
        time.sleep(_POLL)


def judge_stall(scene: RunEvidence, reason: str) -> Verdict:
    """The verdict where nobody has failed and nobody goes on: the rank that the others wait for.

    That is one that is stopped; else the one that is behind; else, of several at the same place, the first that does
    not wait in torch.
    """
    stopped = [beat for beat in scene.living if beat.state() in _STOPPED]
    if stopped:
        return scene.verdict("stalled", f"{reason}; its process is stopped (SIGSTOP, or a debugger)", stopped[0])
    if not scene.living:
        return scene.verdict("stalled", reason, None)
    behind = min(scene.living, key=lambda beat: (beat.progress, _waits(scene, beat), beat.origin.rank))
    if scene.elsewhere and _waits(scene, behind) and behind.progress == max(b.progress for b in scene.living):
        return _elsewhere(scene, "stalled", f"{reason}; all ranks on host {socket.gethostname()} wait for another")
    frames = _frames(scene, behind)
    verdict = scene.verdict("stalled", f"{reason}; its stack:" if frames else reason, behind)
    return replace(verdict, traceback="\n".join(frames))


def publish(run: Path, verdict: Verdict) -> bool:
    """Let this be the verdict of its attempt, and print it, unless there is one; says whether it is.

    Where the disk takes no verdict at all, it is printed all the same.
    """
    directory, text = run / "diagnostics", json.dumps(verdict.to_dict(), indent=2) + "\n"
    aside = directory / f".verdict.{socket.gethostname()}.{os.getpid()}"
    try:
        aside.write_text(text, encoding="utf-8")
        os.link(aside, directory / f"verdict_{verdict.attempt}.json")  # fails where another rank was first
        aside.replace(_path(run))
    except FileExistsError:
        aside.unlink()
        return False
    except OSError:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    print(verdict.screen(run), file=sys.stderr, flush=True)
    return True


def read_verdict(run: Path) -> Verdict | None:
    """The newest verdict on a run; None where there is none."""
    try:
        found = Verdict(**json.loads(_path(run).read_text(encoding="utf-8")))
        found.screen(run)
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # it was damaged
    return found


def newest_checkpoint(run: Path) -> int | None:
    """Step of the newest checkpoint that was written to its end."""
    steps = [path.parent.name.removeprefix("step_") for path in run.glob("checkpoints/step_*/manifest.json")]
    return max((int(step) for step in steps if step.isdecimal()), default=None)


def _path(run: Path) -> Path:
    return run / "diagnostics" / "verdict.json"


def judge_lost(scene: RunEvidence) -> Verdict:
    """The verdict where this machine has only victims."""
    errors = [failure.error for failure in scene.failures.values()]
    if scene.living and any("timed out" in error.lower() or "timeout" in error.lower() for error in errors):
        return judge_stall(scene, "the others have waited for it in vain")
    said = f": {errors[0]}" if errors else ""
    if scene.elsewhere:
        return _elsewhere(scene, "lost", f"no rank on host {socket.gethostname()} has failed of itself{said}")
    first = min(scene.failures.values(), key=lambda failure: failure.time, default=None)
    return scene.verdict("lost", f"the connection to the other ranks{said}", first)


def _elsewhere(scene: RunEvidence, cause: Cause, error: str) -> Verdict:
    """A verdict on a rank of another machine, which is named where there is only one."""
    others = scene.elsewhere
    named = ", ".join(f"{rank}({scene.world_size})" for rank in others)
    if len(others) == 1 and others[0] in scene.beats:
        return scene.verdict(cause, error, scene.beats[others[0]])
    verdict = scene.verdict(cause, f"{error}; on other hosts: rank {named}", None)
    return replace(verdict, rank=others[0] if len(others) == 1 else None)


def _last_words(code: int | None) -> str:
    """What is known of a process that has left no record."""
    if code == -9:
        return "killed by SIGKILL, perhaps by the kernel for want of memory"
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    if code is not None:
        return f"ended with exit code {code} and without a word"
    return "ended without a word, as by SIGKILL, which the kernel sends for want of memory"


def _frames(scene: RunEvidence, beat: Heartbeat) -> list[str]:
    return frames_of_main(scene.run / "diagnostics", beat.origin.rank)


def _waits(scene: RunEvidence, beat: Heartbeat) -> bool:
    return is_waiting(_frames(scene, beat))
