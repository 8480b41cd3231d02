"""Record what a rank does while it trains, and how it ends.

    with open_recorder(run, world, attempt, stall_minutes, next_command) as recorder:
        recorder.mark("forward", step)

The files are in `<run>/diagnostics/` on the disk of each rank's own machine, which need not be shared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from dist_train.diagnostics.failure import Failure
from dist_train.diagnostics.heartbeat import HeartbeatFile, Phase, RankId, RankProcess
from dist_train.diagnostics.root_cause import RunEvidence, find_root_cause
from dist_train.diagnostics.stack_traces import record_crash
from dist_train.diagnostics.verdict import publish_verdict
from dist_train.diagnostics.watchdog import Watchdog
from dist_train.errors import mark_reported
from dist_train.system.stop_signals import StopRequested

_FILES_OF_AN_ATTEMPT = (
    "rank_*",
    "*failure_rank_*",
    "stacks_rank_*",
    "crash_rank_*",
    "stalled_*",
    "verdict.json",
    ".verdict.*",
)

Mark = Callable[[Phase, int], None]


def ignore_mark(phase: Phase, step: int) -> None:
    """A `mark` that records nothing."""


class Recorder:
    """Records the phase and step of this rank."""

    def __init__(self, run: Path, heartbeats: HeartbeatFile, watchdog: Watchdog) -> None:
        self._directory, self._heartbeats, self._watchdog = run / "diagnostics", heartbeats, watchdog

    def call_before_exit(self, callback: Callable[[], None]) -> None:
        """Call `callback`, in a thread, before the watchdog ends the process."""
        self._watchdog.before_exit = callback

    def mark(self, phase: Phase, step: int) -> None:
        """Record that the rank is in `phase` after `step` finished steps; takes a microsecond."""
        self._heartbeats.mark(phase, step)

    def record_interruption(self, reason: str) -> None:
        """Record that this rank ends because it was asked to, so that its peers do not report it as the cause."""
        with suppress(OSError):
            Failure.from_heartbeat(self._heartbeats.read(), "interrupted", reason).write(self._directory)


@contextmanager
def open_recorder(
    run: Path,
    rank_id: RankId,
    attempt: int,
    stall_minutes: float | None,
    next_command: str,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Recorder]:
    """Record this rank until the block ends; if an exception ends it, find and print the root cause, and re-raise.

    Every rank opens it, after `clear_diagnostics` has removed the files of earlier attempts.

    Args:
        run: directory of the run, which may also hold checkpoints.
        attempt: number of this start, the same on all ranks and different from all earlier starts.
        stall_minutes: end the run after this long without progress; None: never.
        next_command: command that resumes the run after a failure.
        is_stopping: whether this process was asked to stop.

    Raises:
        StopRequested: this rank lost its peers because they, or it, were asked to stop.
    """
    heartbeats = HeartbeatFile(run / "diagnostics", RankProcess.current(rank_id, attempt, next_command))
    watchdog = Watchdog(run, heartbeats, stall_minutes)
    recorder = Recorder(run, heartbeats, watchdog)
    # A process alone leaves its standard error to a crash: no other rank would print what the file says.
    crash = record_crash(run / "diagnostics", rank_id.rank) if rank_id.size > 1 else nullcontext()
    try:
        with watchdog, crash:
            yield recorder
        heartbeats.mark("end", heartbeats.read().step)
    except BaseException as error:
        failure = Failure.from_error(error, heartbeats.read())
        if failure.kind == "victim" and _have_peers_stopped(run, attempt, is_stopping()):
            recorder.record_interruption("asked to stop")
            raise StopRequested("the other ranks have left") from error
        _report(run, error, failure)
        raise
    finally:
        heartbeats.close()


def _have_peers_stopped(run: Path, attempt: int, is_stopping: bool) -> bool:
    """Whether the peers that this rank lost were asked to stop.

    That this rank was asked to stop is not enough: when one rank fails, a launcher asks the others to stop.
    """
    evidence = RunEvidence.read(run, attempt)
    if evidence.first_own_failure is not None:
        return evidence.first_own_failure.kind == "interrupted"
    return is_stopping and not evidence.killed


def clear_diagnostics(run: Path) -> None:
    """Remove the files of earlier attempts, except their verdicts `verdict_<attempt>.json`.

    The first rank of each machine calls this, after rank 0 holds the lock of the run and before any rank opens its
    recorder.
    """
    for pattern in _FILES_OF_AN_ATTEMPT:
        with suppress(OSError):
            for path in (run / "diagnostics").glob(pattern):
                path.unlink()


def _report(run: Path, error: BaseException, failure: Failure) -> None:
    """Write the failure record, and the verdict if no other rank has written one."""
    with suppress(OSError):
        failure.write(run / "diagnostics")
    if not failure.needs_verdict:
        return
    with suppress(OSError):  # an error of the disk must not replace the error of the training
        verdict = find_root_cause(run, failure.attempt, failure)
        if verdict:
            publish_verdict(run, verdict)
        mark_reported(error)
