"""What a drill does to a run: each fault strikes a run at a moment, and says how to give the command again.

A fault is a function of the struck run and of the drill's random numbers. It waits for its moment itself, because some
moments are no step: the middle of a save, or a second checkpoint. `EndedEarly` means that the run was over before.
"""

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Protocol

from dist_train.checkpoint.store import Store
from dist_train.diagnostics.heartbeat import Heartbeat, read_heartbeats
from dist_train.run_dir import RunDir

POLL = 0.001  # seconds
NOT_SAVED = "was not saved"
"""What a run prints of a checkpoint that the disk did not take."""
GRACE = 60.0  # seconds that a run has to save and leave before a scheduler kills it


class EndedEarly(Exception):  # noqa: N818 (no error)
    """The run was over before its moment had come."""


class TrainingProcess(Protocol):
    """A run that was started and can be struck."""

    directory: RunDir
    moment: int
    """Step after which the fault strikes."""

    @property
    def pid(self) -> int: ...

    def is_over(self) -> bool: ...

    def wait(self, seconds: float | None) -> bool:
        """Whether it has ended within this time; None: wait for its end."""
        ...

    def output(self) -> str:
        """What it has printed so far."""
        ...


Fault = Callable[[TrainingProcess, Random], None]


def read_ranks(run: TrainingProcess) -> list[Heartbeat]:
    """The last signs of life of the ranks of the newest attempt."""
    return list(read_heartbeats(run.directory.path / "diagnostics").values())


def wait_for(run: TrainingProcess, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; raises EndedEarly if the run is over before."""
    while not condition():
        if run.is_over():
            raise EndedEarly
        time.sleep(POLL)


def read_step(run: TrainingProcess) -> int:
    """Steps that the furthest rank has finished."""
    return max((beat.step for beat in read_ranks(run) if beat.phase != "start"), default=0)


def wait_for_moment(run: TrainingProcess) -> None:
    wait_for(run, lambda: read_step(run) >= run.moment)


def kill(run: TrainingProcess, random: Random) -> None:
    """SIGKILL, as by the kernel for want of memory: to one rank, to the launcher, or to all."""
    wait_for_moment(run)
    random.choice((kill_one, kill_launcher, kill_all))(run, random)


def kill_one(run: TrainingProcess, random: Random) -> None:
    beats = read_ranks(run)
    _send(random.choice(beats).process.pid if beats else run.pid, signal.SIGKILL)


def kill_launcher(run: TrainingProcess, random: Random) -> None:  # noqa: ARG001
    _send(run.pid, signal.SIGKILL)


def kill_all(run: TrainingProcess, random: Random) -> None:  # noqa: ARG001
    for pid in {run.pid, *(beat.process.pid for beat in read_ranks(run))}:
        _send(pid, signal.SIGKILL)


def kill_in_save(run: TrainingProcess, random: Random) -> None:
    """SIGKILL to all while a checkpoint is being written."""
    wait_for_moment(run)
    wait_for(run, lambda: any(run.directory.checkpoints.glob(".step_*")))
    time.sleep(random.uniform(0, 0.01))
    kill_all(run, random)


def stop(run: TrainingProcess, random: Random) -> None:  # noqa: ARG001
    """SIGTERM to the launcher, as a user sends it."""
    wait_for_moment(run)
    _send(run.pid, signal.SIGTERM)


def preempt(run: TrainingProcess, random: Random) -> None:
    """What a scheduler does: SIGUSR2 to all, SIGTERM a little later, SIGKILL to what is left after a grace."""
    wait_for_moment(run)
    pids = {run.pid, *(beat.process.pid for beat in read_ranks(run))}
    for number in (signal.SIGUSR2, signal.SIGTERM):
        for pid in pids:
            _send(pid, number)
        time.sleep(random.uniform(0, 0.2))
    if not run.wait(GRACE):
        for pid in pids:
            _send(pid, signal.SIGKILL)


def corrupt_latest(run: TrainingProcess, random: Random) -> None:
    """One bit of the newest checkpoint changes after a kill."""
    path = _killed_with_two(run, random)
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def truncate_latest(run: TrainingProcess, random: Random) -> None:
    """A file of the newest checkpoint loses its end after a kill."""
    path = _killed_with_two(run, random)
    os.truncate(path, random.randrange(path.stat().st_size))


def disk_full(run: TrainingProcess, random: Random) -> None:
    """For a while no file takes more than some bytes, so that saves fail; then there is room again."""
    wait_for_moment(run)
    pids = [beat.process.pid for beat in read_ranks(run)]
    _limit_files(pids, 512)
    try:
        wait_for(run, lambda: NOT_SAVED in run.output())
        time.sleep(random.uniform(0, 0.5))
    except EndedEarly:
        if NOT_SAVED not in run.output():
            raise
    finally:
        _limit_files(pids, resource.RLIM_INFINITY)


def resize(run: TrainingProcess, random: Random) -> None:
    """A stop, after which the run goes on with another number of ranks."""
    stop(run, random)


def nan(run: TrainingProcess, random: Random) -> None:  # noqa: ARG001
    """The images of one step are not numbers: what a run is started with sees to that (`drill.NAN_STEP`)."""
    run.wait(None)


FAULTS: dict[str, Fault] = {
    "kill": kill,
    "kill-in-save": kill_in_save,
    "stop": stop,
    "corrupt-latest": corrupt_latest,
    "truncate-latest": truncate_latest,
    "disk-full": disk_full,
    "nan": nan,
    "preempt": preempt,
    "resize": resize,
}


def _killed_with_two(run: TrainingProcess, random: Random) -> Path:
    """A file of the newest checkpoint of a run that was killed when it had two, or as late as it could be."""
    wait_for_moment(run)
    store = Store(run.directory.checkpoints)
    wait_for(run, lambda: len(store.steps()) > 1)
    kill_all(run, random)
    run.wait(GRACE)
    return random.choice(sorted(path for path in store.place(store.steps()[-1]).iterdir() if path.stat().st_size))


def _limit_files(pids: list[int], size: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
