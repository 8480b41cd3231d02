"""What a rank notes of itself while it trains, and what is left and said when it fails.

    with open_recorder(run, place, attempt, stall_minutes, next_command) as recorder:
        recorder.mark("forward", step)

All lies in `<run>/diagnostics/` on each rank's own machine; the disk need not be shared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dist_train.diagnostics.failure import Failure
from dist_train.diagnostics.heartbeat import HeartbeatFile, Phase, RankId, RankProcess
from dist_train.diagnostics.root_cause import RunEvidence, judge, publish
from dist_train.diagnostics.watchdog import Watchdog
from dist_train.errors import mark_told
from dist_train.system.stop_signals import StopRequested

_OF_AN_ATTEMPT = ("rank_*", "*failure_rank_*", "stacks_rank_*", "stalled_*", "verdict.json", ".verdict.*")


Mark = Callable[[Phase, int], None]


def ignore_mark(phase: Phase, step: int) -> None:
    """The `mark` of a training that nobody records."""


class Recorder:
    """Notes where this rank is."""

    def __init__(self, run: Path, beats: HeartbeatFile, watchdog: Watchdog) -> None:
        self._directory, self._beats, self._watchdog = run / "diagnostics", beats, watchdog

    def call_before_exit(self, tell: Callable[[], None]) -> None:
        """Have `tell` called, in a thread, before the watchdog ends the process because the run can't go on."""
        self._watchdog.on_end = tell

    def mark(self, phase: Phase, step: int) -> None:
        """Note that the rank begins a phase, or goes on in it; `step` counts finished steps. Takes a microsecond."""
        self._beats.mark(phase, step)

    def record_interruption(self, reason: str) -> None:
        """Note that this rank ends because it was asked to, so that nobody takes it for one that failed."""
        with suppress(OSError):
            Failure.at(self._beats.now(), "interrupted", reason).write(self._directory)


@contextmanager
def open_recorder(
    run: Path,
    place: RankId,
    attempt: int,
    stall_minutes: float | None,
    next_command: str,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Recorder]:
    """Record this rank until the block ends, and judge where it ends by an exception, which is raised again.

    Every rank opens it, once the files of earlier attempts are gone (`clear_diagnostics`).

    Args:
        run: the run's directory, in which files of a checkpoint may lie as well.
        attempt: number of this start, the same on all ranks, of no earlier start.
        stall_minutes: time without progress after which the run is ended; None: never.
        next_command: what goes on with the run after a failure.
        is_stopping: whether this process was asked to stop.

    Raises:
        StopRequested: the other ranks have gone because they were asked to stop, or this one is.
    """
    beats = HeartbeatFile(run / "diagnostics", RankProcess.current(place, attempt, next_command))
    watchdog = Watchdog(run, beats, stall_minutes)
    recorder = Recorder(run, beats, watchdog)
    try:
        with watchdog:
            yield recorder
        beats.mark("end", beats.now().step)
    except BaseException as error:
        failure = Failure.of(error, beats.now())
        if failure.kind == "victim" and _peers_left(run, attempt, is_stopping()):
            recorder.record_interruption("asked to stop")
            raise StopRequested("the other ranks have left") from error
        _tell(run, error, failure)
        raise
    finally:
        beats.close()


def _peers_left(run: Path, attempt: int, is_stopping: bool) -> bool:
    """Whether the peers that this rank has lost were asked to stop.

    To be asked to stop is not enough: a launcher asks the ranks that are left when one has failed.
    """
    scene = RunEvidence.of(run, attempt)
    if scene.first_own is not None:
        return scene.first_own.kind == "interrupted"
    return is_stopping and not scene.dead


def clear_diagnostics(run: Path) -> None:
    """Remove what earlier attempts have left, except their verdicts `verdict_<attempt>.json`.

    For the first rank of each machine, after rank 0 holds the run's lock and before any rank opens its recorder.
    """
    for pattern in _OF_AN_ATTEMPT:
        for path in (run / "diagnostics").glob(pattern):
            with suppress(OSError):
                path.unlink()


def _tell(run: Path, error: BaseException, failure: Failure) -> None:
    """Leave a record of how this rank ends, and the verdict if it is the first to judge."""
    with suppress(OSError):
        failure.write(run / "diagnostics")
    if failure.is_silent:
        return
    with suppress(OSError):  # the error of the disk would take the place of that of the training
        verdict = judge(run, failure.attempt, ending=failure)
        if verdict:
            publish(run, verdict)
        mark_told(error)
