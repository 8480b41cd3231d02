"""Torch's elastic agent with forked ranks: `agent` imports this when the settings are known to be whole.

It differs from torchrun's in three things. Ranks are forked from a process that has imported what they need, so that
neither a start nor a restart waits for that. Nothing listens beyond loopback. And a rank that ended on purpose (done, a
message, preempted) is not started again.
"""

import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any, NoReturn

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from dist_train.__main__ import main as train_main
from dist_train.system.exit import FAILED, INTERRUPTED, leave, run_guarded
from dist_train.system.process import die_with_parent
from dist_train.system.stop_signals import PREEMPTED, Stop

LOOPBACK = "127.0.0.1"
POLL = 0.02  # seconds between two looks at the ranks
PATIENCE = 2.0  # seconds in which ranks notice that another is lost, and leave by themselves
PATIENCE_TO_SAVE = 600.0  # seconds for what is left to do where one rank has been preempted
PASSED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGUSR2: signal.SIGUSR2,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,  # a rank would die of these two
    signal.SIGQUIT: signal.SIGTERM,
}


def count_gpus() -> int:
    """Number of GPUs that torch finds, at least 1; asked in a fork, where the driver may be touched."""
    asked = multiprocessing.get_context("fork").Process(target=lambda: os._exit(torch.cuda.device_count()))
    asked.start()
    asked.join()
    return max(1, asked.exitcode or 0)


def _silence_elastic() -> None:
    """Torch reports a lost rank in pages; this agent says it in a line."""
    for name in [each for each in logging.root.manager.loggerDict if each.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).disabled = True


class Agent(LocalElasticAgent):
    """Torch's agent of one machine, which judges by exit codes and passes signals on.

    Args:
        ranks: how many processes to fork.
        max_restarts: how often all ranks are started anew because one was killed or failed.
        arguments: of `python -m dist_train`.
    """

    def __init__(self, ranks: int, max_restarts: int, arguments: tuple[str, ...]) -> None:
        _silence_elastic()
        self._gate = ForkBarrier()
        spec = WorkerSpec(
            role="rank",
            local_world_size=ranks,
            rdzv_handler=Loopback(),
            entrypoint=_rank,
            args=(os.getpid(), self._gate, arguments),
            max_restarts=max_restarts,
            monitor_interval=POLL,
        )
        super().__init__(spec, DefaultLogsSpecs(log_dir=os.devnull), start_method="fork")
        self.exit_code = 0
        self._passed_on: signal.Signals | None = None  # the first that came
        self._has_ranks = False
        self._held: list[signal.Signals] = []  # what came while there were none
        self._interrupts = 0
        self._kill_at = math.inf
        for each in PASSED_ON:
            if signal.getsignal(each) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
                signal.signal(each, self._pass_on)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        """Fork the ranks, which inherit that signals are blocked until they listen to them.

        The handler may run meanwhile: where a thread of torch's takes the signal, the mask of this one does not count.
        """
        self.exit_code = 0
        self._has_ranks = False
        if self._passed_on and not self._held:
            self._held.append(self._passed_on)  # only ranks of the attempt before have heard it
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        with self._gate:
            pids: dict[int, Any] = super()._start_workers(worker_group)
        for worker in worker_group.workers:
            worker.id = pids[worker.local_rank]
        self._has_ranks = True
        while self._held:
            self._send(self._held.pop(0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Look at exit codes and at nothing else; torch's own look would signal the other ranks when one is lost."""
        codes = {worker.global_rank: _exit_code(worker.id) for worker in worker_group.workers}
        if all(code == 0 for code in codes.values()):
            return RunResult(WorkerState.SUCCEEDED, return_values=dict.fromkeys(codes))
        self._kill_the_interrupted()
        ended = {rank: code for rank, code in codes.items() if code}
        if not ended:
            return RunResult(WorkerState.HEALTHY)
        rank = min(ended, key=lambda each: _weight(ended[each]))
        self._judge(rank, ended[rank])
        self._wait_for_the_others(PATIENCE_TO_SAVE if ended[rank] == PREEMPTED else PATIENCE)
        return RunResult(WorkerState.FAILED)

    def _judge(self, rank: int, code: int) -> None:
        """Decide what the end of a rank means for the run: starting anew, or an exit code."""
        is_lost = code < 0 or code == FAILED
        if not is_lost or self._passed_on:
            self._remaining_restarts = 0
        if is_lost and self._interrupts > 1:
            self.exit_code = INTERRUPTED
            return
        self.exit_code = FAILED if is_lost else code
        if is_lost:
            self._tell(f"rank {rank}({self._worker_group.spec.local_world_size}) {_how(code)}")
        elif code == PREEMPTED and not self._passed_on:
            self._send(signal.SIGTERM)  # only this rank knew

    def _tell(self, what: str) -> None:
        spec, left = self._worker_group.spec, self._remaining_restarts
        more = f"restart {spec.max_restarts - left + 1} of {spec.max_restarts} from the newest checkpoint"
        print(f"{what} at {time.strftime('%H:%M:%S')}; {more if left else 'the run ends'}", file=sys.stderr, flush=True)

    def _wait_for_the_others(self, patience: float) -> None:
        """Give the other ranks time to leave, then kill them: they may be in an operation that never ends."""
        self._wait(patience)
        self._send(signal.SIGKILL)
        self._wait(PATIENCE)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(map(_is_running, self._pids())) and time.monotonic() < deadline:
            self._kill_the_interrupted()
            time.sleep(POLL)

    def _kill_the_interrupted(self) -> None:
        """End ranks that a second SIGINT should have ended: in a call of C, such as a collective, nobody hears it."""
        if time.monotonic() > self._kill_at:
            self._send(signal.SIGKILL)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler: ranks save and leave; a second SIGINT ends them at once, soon by force, and a third by force."""
        passed = PASSED_ON[signal.Signals(number)]
        self._passed_on = self._passed_on or passed
        if passed == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                self._kill_at = time.monotonic() + (PATIENCE if self._interrupts == 2 else 0)
        if self._has_ranks:
            self._send(passed)
        else:
            self._held.append(passed)

    def _send(self, number: signal.Signals) -> None:
        for pid in filter(_is_running, self._pids()):
            os.kill(pid, number)

    def _pids(self) -> list[int]:
        return [worker.id for worker in self._worker_group.workers if worker.id is not None]


class ForkBarrier:
    """Holds ranks back until all of them are forked; a context manager around the forks.

    A rank that connects to the store keeps the store's thread in the agent busy, and a rank that is forked in that
    very moment may inherit a lock of the C library that nobody in it will ever open. Seen in one of some 400 starts
    under load: a rank hung in its connect to the store, and the others waited for it.
    """

    def __enter__(self) -> None:
        self._reader, self._writer = os.pipe()

    def __exit__(self, *_: object) -> None:
        os.close(self._writer)
        os.close(self._reader)

    def wait(self) -> None:
        """In a rank: wait until the agent, and every rank so far, has closed its end for writing."""
        os.close(self._writer)
        os.read(self._reader, 1)
        os.close(self._reader)


class Loopback(RendezvousHandler):
    """One agent that meets nobody, and a store for its ranks that only this machine can reach.

    Every attempt has a store of its own: what an earlier one has left in it would mislead the next.
    """

    use_agent_store = True

    def next_rendezvous(self) -> RendezvousInfo:
        listening = socket.create_server((LOOPBACK, 0))
        port = listening.getsockname()[1]
        store = TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(LOOPBACK, port))

    def get_backend(self) -> str:
        return "loopback"

    def get_run_id(self) -> str:
        return "dist-train"

    def num_nodes_waiting(self) -> int:
        return 0

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def shutdown(self) -> bool:
        return True


def _rank(agent: int, gate: ForkBarrier, arguments: tuple[str, ...]) -> NoReturn:
    """What a forked rank does. It leads a session of its own: Ctrl-C is for the agent, which passes it on once."""
    die_with_parent(agent)
    os.setsid()
    gate.wait()
    stop = Stop.install()
    for each in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    leave(run_guarded(lambda: train_main(arguments, stop)))


def _exit_code(pid: int) -> int | None:
    """How a rank has ended, minus the signal where one killed it; None while it runs. It stays to be asked again."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # dead before the next rank was forked, at which Python forgets dead children
        return FAILED
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _is_running(pid: int) -> bool:
    return _exit_code(pid) is None


def _weight(code: int) -> int:
    """Lower is nearer to the cause where several ranks have ended: a purpose, then a kill, then a failure."""
    return 2 if code == FAILED else 1 if code < 0 else 0


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
