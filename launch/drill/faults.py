"""The faults of a drill: each waits for its moment and then damages the run.

A fault is a function of the run and of the drill's random numbers. It waits itself, because some moments are not a
step: the middle of a save, or the second checkpoint. It raises EndedEarly if the run ends before.
"""

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from dist_train.checkpoint.store import Store
from dist_train.diagnostics.heartbeat import Heartbeat, read_heartbeats
from dist_train.system.process import signal_process
from launch.drill.training_process import TrainingProcess

POLL = 0.001  # seconds
NOT_SAVED = "was not saved"
"""Part of the message of a run that could not save a checkpoint."""
GRACE = 60.0  # seconds to save and exit, before SIGKILL


class EndedEarly(Exception):  # noqa: N818 (no error)
    """The run ended before its fault."""


Fault = Callable[[TrainingProcess, Random], None]


def read_ranks(run: TrainingProcess) -> list[Heartbeat]:
    """Read the heartbeats of the ranks of the newest attempt."""
    return list(read_heartbeats(run.directory.path / "diagnostics").values())


def wait_for(run: TrainingProcess, condition: Callable[[], bool]) -> None:
    """Wait until the condition is true; raises EndedEarly if the run ends before."""
    while not condition():
        if run.is_over():
            raise EndedEarly
        time.sleep(POLL)


def read_step(run: TrainingProcess) -> int:
    """Return the number of steps that the furthest rank has finished."""
    return max((beat.step for beat in read_ranks(run) if beat.phase != "start"), default=0)


def wait_for_step(run: TrainingProcess) -> None:
    """Wait until the run has finished `fault_step` steps."""
    wait_for(run, lambda: read_step(run) >= run.fault_step)


def kill(run: TrainingProcess, random: Random) -> None:
    """Send SIGKILL to one rank, to the launcher, or to all; so does the out-of-memory killer."""
    wait_for_step(run)
    random.choice((kill_one, kill_launcher, kill_all))(run, random)


def kill_one(run: TrainingProcess, random: Random) -> None:
    beats = read_ranks(run)
    _send(random.choice(beats) if beats else run, signal.SIGKILL)


def kill_launcher(run: TrainingProcess, random: Random) -> None:  # noqa: ARG001
    _send(run, signal.SIGKILL)


def kill_all(run: TrainingProcess, random: Random) -> None:  # noqa: ARG001
    for each in _list_processes(run):
        _send(each, signal.SIGKILL)


def kill_in_save(run: TrainingProcess, random: Random) -> None:
    """Send SIGKILL to all while a checkpoint is being written."""
    wait_for_step(run)
    wait_for(run, lambda: any(run.directory.checkpoints.glob(".step_*")))
    time.sleep(random.uniform(0, 0.01))
    kill_all(run, random)


def stop(run: TrainingProcess, random: Random) -> None:  # noqa: ARG001
    """Send SIGTERM to the launcher, as a user does."""
    wait_for_step(run)
    _send(run, signal.SIGTERM)


def preempt(run: TrainingProcess, random: Random) -> None:
    """Preempt as a scheduler does: SIGUSR2 to all, SIGTERM a little later, SIGKILL after a grace period."""
    wait_for_step(run)
    processes = _list_processes(run)
    for number in (signal.SIGUSR2, signal.SIGTERM):
        for each in processes:
            _send(each, number)
        time.sleep(random.uniform(0, 0.2))
    if not run.wait(GRACE):
        for each in processes:
            _send(each, signal.SIGKILL)


def corrupt_latest(run: TrainingProcess, random: Random) -> None:
    """Kill the run, then flip one bit of the newest checkpoint."""
    path = _kill_with_two_checkpoints(run, random)
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def truncate_latest(run: TrainingProcess, random: Random) -> None:
    """Kill the run, then cut off the end of a file of the newest checkpoint."""
    path = _kill_with_two_checkpoints(run, random)
    os.truncate(path, random.randrange(path.stat().st_size))


def disk_full(run: TrainingProcess, random: Random) -> None:
    """Limit the size of files until a save has failed, then lift the limit."""
    wait_for_step(run)
    pids = [beat.process.pid for beat in read_ranks(run)]
    _limit_files(pids, 512)
    try:
        wait_for(run, lambda: NOT_SAVED in run.read_output())
        time.sleep(random.uniform(0, 0.5))
    except EndedEarly:
        if NOT_SAVED not in run.read_output():
            raise
    finally:
        _limit_files(pids, resource.RLIM_INFINITY)


def resize(run: TrainingProcess, random: Random) -> None:
    """Stop the run; the drill resumes it on another number of ranks."""
    stop(run, random)


def nan(run: TrainingProcess, random: Random) -> None:  # noqa: ARG001
    """Wait for the end: the images of one step are NaN (`drill.NAN_STEP` in the environment of the run)."""
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


def _kill_with_two_checkpoints(run: TrainingProcess, random: Random) -> Path:
    """Kill the run once it has two checkpoints, and return a file of the newest."""
    wait_for_step(run)
    store = Store(run.directory.checkpoints)
    wait_for(run, lambda: len(store.steps()) > 1)
    kill_all(run, random)
    run.wait(GRACE)
    return random.choice(sorted(path for path in store.path(store.steps()[-1]).iterdir() if path.stat().st_size))


def _limit_files(pids: list[int], size: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def _list_processes(run: TrainingProcess) -> list[TrainingProcess | Heartbeat]:
    """The launcher and its ranks."""
    return [run, *read_ranks(run)]


def _send(process: TrainingProcess | Heartbeat, number: signal.Signals) -> None:
    if isinstance(process, Heartbeat):
        signal_process(process.process.pid, number, process.is_alive)
    else:
        process.send(number)
