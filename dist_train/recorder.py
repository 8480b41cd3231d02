"""What a rank notes of itself while it trains, and what is left and said when it fails.

    with open_recorder(run, place, attempt, stall_minutes, next_command) as recorder:
        recorder.mark("forward", step)

All lies in `<run>/diagnostics/` on each rank's own machine; the disk need not be shared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dist_train.beats import BeatFile, Origin, Phase, Place, read_beats
from dist_train.errors import mark_told
from dist_train.failures import Failure
from dist_train.verdict import judge, publish
from dist_train.watchdog import Alarm, Watchdog

_OF_AN_ATTEMPT = ("rank_*", "*failure_rank_*", "stacks_rank_*", "stalled_*", "verdict.json", ".verdict.*")


Mark = Callable[[Phase, int], None]


def unmarked(phase: Phase, step: int) -> None:
    """The `mark` of a training that nobody records."""


class Recorder:
    """Notes where this rank is."""

    def __init__(self, beats: BeatFile) -> None:
        self._beats = beats

    def mark(self, phase: Phase, step: int) -> None:
        """Note that the rank begins a phase, or goes on in it; `step` counts finished steps. Takes a microsecond."""
        self._beats.mark(phase, step)


@contextmanager
def open_recorder(
    run: Path, place: Place, attempt: int, stall_minutes: float | None, next_command: str
) -> Iterator[Recorder]:
    """Record this rank until the block ends, and judge where it ends by an exception, which is raised again.

    Every rank opens it, in its main thread, once the files of earlier attempts are gone (`clear`).

    Args:
        run: the run's directory, in which files of a checkpoint may lie as well.
        attempt: number of this start, the same on all ranks, of no earlier start.
        stall_minutes: time without progress after which the run is ended; None: never.
        next_command: what goes on with the run after a failure.
    """
    beats, alarm = BeatFile(run / "diagnostics", Origin.here(place, attempt, next_command)), Alarm()
    try:
        with alarm.rung_by_signals():
            try:
                with Watchdog(run, beats, alarm, stall_minutes):
                    yield Recorder(beats)
            except BaseException as error:
                _tell(run, error, beats)
                raise
            beats.mark("end", beats.now().step)
    finally:
        alarm.close()
        beats.close()


def next_attempt(run: Path) -> int:
    """The number of the start that begins, from 1; for the rank that holds the run's lock."""
    directory = run / "diagnostics"
    judged = [path.stem.removeprefix("verdict_") for path in directory.glob("verdict_*.json")]
    known = [int(number) for number in judged if number.isdecimal()]
    return 1 + max([0, *known, *(beat.origin.attempt for beat in read_beats(directory).values())])


def clear(run: Path) -> None:
    """Remove what earlier attempts have left, except their verdicts `verdict_<attempt>.json`.

    For the first rank of each machine, after rank 0 holds the run's lock and before any rank opens its recorder.
    """
    for pattern in _OF_AN_ATTEMPT:
        for path in (run / "diagnostics").glob(pattern):
            with suppress(OSError):
                path.unlink()


def _tell(run: Path, error: BaseException, beats: BeatFile) -> None:
    """Leave a record of how this rank ends, and the verdict if it is the first to judge."""
    failure = Failure.of(error, beats.now())
    with suppress(OSError):
        failure.write(run / "diagnostics")
    if failure.is_silent:
        return
    with suppress(OSError):  # the error of the disk would take the place of that of the training
        verdict = judge(run, failure.attempt, ending=failure)
        if verdict:
            publish(run, verdict)
        mark_told(error)
