"""The process of a forked rank: its start, and its exit code as the agent reads it."""

import os
import signal
from typing import NoReturn

from dist_train.__main__ import main as train_main
from dist_train.errors import OwnImportError
from dist_train.system.exit import FAILED, leave, run_guarded
from dist_train.system.process import die_with_parent
from dist_train.system.stop_signals import SIGNALS, Stop

FORWARDED: dict[signal.Signals, signal.Signals] = {
    **{number: number for number in SIGNALS if number != signal.SIGALRM},  # each rank has a time limit of its own
    signal.SIGQUIT: signal.SIGTERM,  # it would kill a rank
}
"""Signals to the agent, with the signal that it forwards to its ranks."""


LEFT_EARLY = 256
"""Reported instead of exit code 0 for a rank that has not finished; no process ends with it."""
FAILS_AGAIN = 257
"""Reported instead of exit code 1 for a rank that would fail again after a restart."""
_FINISHED = 99  # with which a rank leaves instead of 0
_CERTAIN = 98  # instead of 1, if it would fail again


def run_rank(agent: int, arguments: tuple[str, ...]) -> NoReturn:
    """Train in a forked rank, in a session of its own: only the agent gets Ctrl-C, and forwards it once.

    Args:
        agent: pid of the agent.
        arguments: those of `python -m dist_train`.
    """
    die_with_parent(agent)
    os.setsid()
    stop = Stop.install()
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    fails_again = False

    def train() -> int:
        nonlocal fails_again
        try:
            return train_main(arguments, stop)
        except OwnImportError:
            fails_again = True
            raise

    code = run_guarded(train)
    leave(_CERTAIN if fails_again else code or _FINISHED)


def find_exit_code(pid: int) -> int | None:
    """Return the exit code of a rank, minus the signal that killed it; None while it runs. May be called again.

    0 only after its training has returned; LEFT_EARLY if something else, such as a library, ended it with 0.
    """
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # it ended before the next rank was forked, and Python has reaped it then
        return FAILED
    if ended is None:
        return None
    if ended.si_code != os.CLD_EXITED:
        return -ended.si_status
    return {_FINISHED: 0, 0: LEFT_EARLY, _CERTAIN: FAILS_AGAIN}.get(ended.si_status, ended.si_status)


def is_running(pid: int) -> bool:
    return find_exit_code(pid) is None
