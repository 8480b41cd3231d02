"""Torch's elastic agent with forked ranks.

It differs from torchrun's agent in three ways:

- It forks the ranks after it has imported what they need, so that neither a start nor a restart waits for imports.
- It listens nowhere: its ranks meet in memory that only they can open.
- It restarts no rank that ended on purpose, which is done, refused with a message, or preempted; and none whose code
  can't be imported.
"""

import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

from dist_train.__main__ import make_local_command
from dist_train.diagnostics.root_cause import RunEvidence, find_known_failure
from dist_train.diagnostics.verdict import Verdict, find_newest_checkpoint, publish_verdict
from dist_train.elastic.private_store import PrivateStore
from dist_train.elastic.rank_process import FAILS_AGAIN, FORWARDED, LEFT_EARLY, find_exit_code, is_running, run_rank
from dist_train.errors import NonFiniteError, UserError
from dist_train.run_dir import RunDir
from dist_train.system.exit import FAILED, INTERRUPTED
from dist_train.system.stop_signals import PREEMPTED

POLL = 0.02  # seconds between two looks at the ranks
PATIENCE = 2.0  # seconds in which ranks notice that a peer is lost, and leave by themselves
ON_PURPOSE = (UserError.exit_code, NonFiniteError.exit_code, PREEMPTED, INTERRUPTED, FAILS_AGAIN)
"""Exit codes after which a restart does not help; the rank has printed why."""
PATIENCE_TO_SAVE = 600.0  # seconds in which the other ranks save when one is preempted


def count_gpus() -> int:
    """Return the number of GPUs that torch finds, at least 1; a fork counts, so that the agent never opens CUDA."""
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(torch.cuda.device_count()))
    child.start()
    child.join()
    return max(1, child.exitcode or 0)


class ForkingAgent(LocalElasticAgent):
    """An agent for one machine that decides by the exit codes of its ranks and forwards signals to them.

    Args:
        ranks: number of processes to fork.
        max_restarts: how often all ranks are restarted because one was killed or failed.
        arguments: those of `python -m dist_train`.
        run: directory of the run.
    """

    def __init__(self, ranks: int, max_restarts: int, arguments: tuple[str, ...], run: Path) -> None:
        _silence_torchelastic()
        self._run, self._arguments = run, arguments
        spec = WorkerSpec(
            role="rank",
            local_world_size=ranks,
            rdzv_handler=PrivateStore(),
            entrypoint=run_rank,
            args=(os.getpid(), arguments),
            max_restarts=max_restarts,
            monitor_interval=POLL,
        )
        super().__init__(spec, DefaultLogsSpecs(log_dir=os.devnull), start_method="fork")
        self.exit_code = 0
        self._first_signal: signal.Signals | None = None  # the first that was forwarded
        self._has_ranks = False
        self._pending: list[signal.Signals] = []  # signals that came while there were no ranks
        self._interrupts = 0
        self._kill_at = math.inf
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self._forward_signal)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        """Fork the ranks with the signals blocked, until their own handlers are installed.

        The handler of the agent may run meanwhile: a thread of torch's may take the signal, and the mask of this
        thread does not count for it.
        """
        self.exit_code = 0
        self._has_ranks = False
        if self._first_signal and not self._pending:
            self._pending.append(self._first_signal)  # only ranks of an earlier attempt have received it
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        pids: dict[int, Any] = super()._start_workers(worker_group)
        for worker in worker_group.workers:
            worker.id = pids[worker.local_rank]
        self._has_ranks = True
        while self._pending:
            self._send(self._pending.pop(0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Look at the exit codes only; torch's own method would signal the other ranks when one is lost."""
        codes = {worker.global_rank: find_exit_code(worker.id) for worker in worker_group.workers}
        if all(code == 0 for code in codes.values()):
            return RunResult(WorkerState.SUCCEEDED, return_values=dict.fromkeys(codes))
        self._kill_if_interrupted_twice()
        failed = {rank: code for rank, code in codes.items() if code}
        if not failed:
            return RunResult(WorkerState.HEALTHY)
        rank = min(failed, key=lambda each: _order_by_cause(failed[each]))
        self._handle_exit(rank, failed[rank])
        self._end_other_ranks(PATIENCE_TO_SAVE if failed[rank] == PREEMPTED else PATIENCE)
        if self.exit_code == FAILED and failed[rank] != FAILS_AGAIN and not self._remaining_restarts:
            self._report_end(rank, failed[rank])
        return RunResult(WorkerState.FAILED)

    def _handle_exit(self, rank: int, code: int) -> None:
        """Decide after the exit of a rank: restart the ranks, or set the exit code of the run."""
        is_lost = code not in ON_PURPOSE
        if not is_lost or self._first_signal:
            self._remaining_restarts = 0
        if is_lost and self._interrupts > 1:
            self.exit_code = INTERRUPTED
            return
        self.exit_code = FAILED if is_lost or code == FAILS_AGAIN else code
        if is_lost and self._is_done():
            self.exit_code = self._remaining_restarts = 0
            print(f"rank {rank} {_describe_exit(code)} after the run was done", file=sys.stderr, flush=True)
        elif is_lost:
            self._print_loss(rank, code)
        elif code == PREEMPTED and not self._first_signal:
            self._send(signal.SIGTERM)  # only this rank was asked to stop

    def _print_loss(self, rank: int, code: int) -> None:
        spec, left = self._worker_group.spec, self._remaining_restarts
        reason = _describe_exit(code)
        restart = f"restart {spec.max_restarts - left + 1} of {spec.max_restarts} from the newest checkpoint"
        text = f"rank {rank}({spec.local_world_size}) {reason} at {time.strftime('%H:%M:%S')}"
        print(f"{text}; {restart if left else 'the run ends'}", file=sys.stderr, flush=True)

    def _is_done(self) -> bool:
        """Whether rank 0 has written that the run is done: all of it is saved then."""
        status = RunDir(self._run).read_status() or {}
        return status.get("state") == "done" and status.get("pid") in self._pids()

    def _report_end(self, rank: int, code: int) -> None:
        """Print why the ranks have ended if no rank could: all were killed, or ended before they could record it."""
        evidence = RunEvidence.read(self._run)
        pids = {worker.global_rank: worker.id for worker in self._worker_group.workers}
        has_begun = pids[rank] in [each.process.pid for each in evidence.heartbeats.values()]
        if has_begun and evidence.first_own_failure:
            return  # the rank itself has published a verdict, or printed a message
        if has_begun and evidence.killed and (verdict := find_known_failure(evidence)):
            is_unexplained = verdict.rank == rank and verdict.cause == "killed" and not verdict.traceback
            if is_unexplained and code < 0 and code != -signal.SIGKILL:
                verdict = replace(verdict, error=f"the process {_describe_exit(code)}")
            publish_verdict(self._run, verdict)
            return
        beat = evidence.heartbeats.get(rank) if has_begun else None
        ranks, restarts = len(pids), self._worker_group.spec.max_restarts
        verdict = Verdict(
            rank=rank,
            world_size=ranks,
            host=socket.gethostname(),
            pid=pids[rank],
            phase=beat.phase if beat else "start",
            step=beat.step if beat else None,
            cause="killed" if code < 0 else "exception",
            error=f"the process {_describe_exit(code)}; what it printed is above",
            victims=[other for other in pids if other != rank],
            next_command=make_local_command(self._arguments, ranks, restarts),
            attempt=evidence.attempt,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            checkpoint=find_newest_checkpoint(self._run),
        )
        print(verdict.format_screen(self._run), file=sys.stderr, flush=True)

    def _end_other_ranks(self, patience: float) -> None:
        """Give the other ranks time to leave, then kill them: they may be in an operation that never ends."""
        self._wait(patience)
        self._send(signal.SIGKILL)
        self._wait(PATIENCE)

    def _wait(self, seconds: float) -> None:
        """Wait until all ranks have ended, at most some seconds."""
        deadline = time.monotonic() + seconds
        while any(map(is_running, self._pids())) and time.monotonic() < deadline:
            self._kill_if_interrupted_twice()
            time.sleep(POLL)

    def _kill_if_interrupted_twice(self) -> None:
        """Kill ranks that a second SIGINT has not ended: in a C call, such as a collective, no handler runs."""
        if time.monotonic() > self._kill_at:
            self._send(signal.SIGKILL)

    def _forward_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle a signal: ranks save and leave; a second SIGINT ends them at once, with SIGKILL after PATIENCE."""
        forwarded = FORWARDED[signal.Signals(number)]
        self._first_signal = self._first_signal or forwarded
        if forwarded == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                self._kill_at = time.monotonic() + (PATIENCE if self._interrupts == 2 else 0)
        if self._has_ranks:
            self._send(forwarded)
        else:
            self._pending.append(forwarded)

    def _send(self, number: signal.Signals) -> None:
        for pid in filter(is_running, self._pids()):
            os.kill(pid, number)

    def _pids(self) -> list[int]:
        return [worker.id for worker in self._worker_group.workers if worker.id is not None]


def _silence_torchelastic() -> None:
    """Disable torch's loggers, which report a lost rank in pages; the agent reports it in a line."""
    for name in [each for each in logging.root.manager.loggerDict if each.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).disabled = True


def _order_by_cause(code: int) -> int:
    """Order exit codes of ranks that ended together: on purpose, then killed, then failed, which may only follow."""
    return 2 if code == FAILED else 0 if code in ON_PURPOSE else 1


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"was killed by {_name_signal(-code)}"
    if code == LEFT_EARLY:
        return "left with exit code 0 before its end"
    return f"failed with exit code {code}"


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
