"""Samples a second of a training in its steady state, with everything a run does, on one and two ranks.

All programs take the time at the same steps: peers and the bare step write it to the file of `--readings`, ours is the
`time` of the lines in `metrics.jsonl`. Ours writes its log, TensorBoard files and ledger in the window, and saves one
checkpoint, except for ResNet-18, whose window has only a few steps.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.compare.session import Session, python_or_torchrun, run_and_read, train
from benchmarks.compare.workloads import Workload
from benchmarks.processes import FailedError, cores
from benchmarks.rounds import Case, Reading, Task

MEASURE = "throughput"
UNIT = "samples/s"
NEARLY = 0.8
"""If two workers reach less than this share of the speed without workers, one worker is not tried: it never won."""


class Peer(NamedTuple):
    """One program of `benchmarks.compare.peers` in one variant."""

    module: str
    arguments: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def loader_key(self) -> str:
        """What the best number of workers depends on: a faster step leaves the loader less time."""
        return self.module if self.precision == "fp32" else f"{self.module} {self.precision}"


PEERS = {
    "plain": Peer("plain"),
    "accelerate": Peer("accelerate"),
    "lightning": Peer("lightning", ("--quiet",)),
    "ignite": Peer("ignite"),
}
"""The peers in fp32, which ours is compared with."""
IN_BF16 = {
    "plain bf16": Peer("plain", precision="bf16"),
    "accelerate bf16": Peer("accelerate", precision="bf16"),
    "lightning bf16": Peer("lightning", ("--quiet",), "bf16"),
}
"""The peers that can train in bf16, on one rank."""
BESIDE = {"lightning defaults": Peer("lightning"), **IN_BF16}
"""Peers that are reported, and no target refers to."""
OURS = {"ours": ("train.precision=fp32",), "ours auto": ("train.precision=auto",)}
"""Our variants, and the settings of each."""
BARE_STEP = "bare step"
QUICK_ORDER = (("mnist", 1), ("small", 1), ("resnet", 1), ("mnist", 2), ("tutorial", 1))
"""Workloads and ranks of a quick session; the last ones are left out when the time is up."""


def case(workload: str, ranks: int, name: str) -> Case:
    """The case of this measure."""
    return Case(MEASURE, workload, ranks, name, UNIT)


def tasks(
    session: Session, workloads: Sequence[Workload], ranks: Sequence[int], names: Sequence[str] | None = None
) -> Iterator[Task]:
    """A task for each program and workload; ours before the bare steps, which use what ours has chosen.

    Args:
        names: only these programs.
    """
    asked = {(workload.name, size): workload for workload in workloads for size in ranks}
    for name, size in QUICK_ORDER if session.quick else asked:
        if (workload := asked.get((name, size))) is not None:
            for program, measure in _programs(session, workload, size):
                if names is None or program in names:
                    yield Task.of(case(workload.name, size, program), measure)


def _programs(session: Session, workload: Workload, ranks: int) -> Iterator[tuple[str, Callable[[], Reading]]]:
    for name, peer in _peers(session, workload, ranks).items():
        yield name, partial(measure_peer, session, workload, ranks, peer)
    for name, settings in OURS.items():
        yield name, partial(measure_ours, session, workload, ranks, name, settings)
    yield BARE_STEP, partial(measure_bare_step, session, workload, ranks)
    for name in OURS:
        yield bare_step_as(name), partial(measure_bare_step, session, workload, ranks, as_=name)


def bare_step_as(name: str) -> str:
    """The name of the bare step in the format and precision of this variant of ours."""
    return f"{BARE_STEP} as {name}"


NAMES = (*PEERS, *BESIDE, *OURS, BARE_STEP, *map(bare_step_as, OURS))
"""All programs that can be measured."""


def _peers(session: Session, workload: Workload, ranks: int) -> dict[str, Peer]:
    """The peers of a workload: in a quick session all for the first one, and the plain loop for the others."""
    if session.quick:
        return PEERS if (workload.name, ranks) == QUICK_ORDER[0] else {"plain": PEERS["plain"]}
    return PEERS | BESIDE if ranks == 1 else PEERS


def measure_peer(session: Session, workload: Workload, ranks: int, peer: Peer) -> Reading:
    """A peer's throughput with its best number of workers, which the first call finds out for all later ones.

    One worker is tried only if two are nearly as fast as none. A quick session does not try it, and uses the number of
    the plain loop for all peers.
    """
    key = workload.name, ranks, "plain" if session.quick else peer.loader_key
    if key in session.workers:
        return _peer(session, workload, ranks, peer, session.workers[key])
    found = {count: _peer(session, workload, ranks, peer, count) for count in (0, 2)}
    if not session.quick and found[2].value > NEARLY * found[0].value:
        found[1] = _peer(session, workload, ranks, peer, 1)
    rates = ", ".join(f"{count}: {reading.value:,.0f}" for count, reading in sorted(found.items()))
    print(f"{workload.name}, {ranks} rank(s), {peer.loader_key}, {UNIT} by workers: {rates}", flush=True)
    session.workers[key] = max(found, key=lambda count: found[count].value)
    return found[session.workers[key]]


def _peer(session: Session, workload: Workload, ranks: int, peer: Peer, workers: int) -> Reading:
    python = sys.executable if peer.module == "plain" else session.peers_python
    autocast = () if peer.precision == "fp32" else ("--autocast", peer.precision)
    more = (*peer.arguments, *autocast, "--workers", str(workers))
    return _read(session, workload, ranks, python, f"benchmarks.compare.peers.{peer.module}", more)


def measure_bare_step(session: Session, workload: Workload, ranks: int, as_: str | None = None) -> Reading:
    """The throughput of the bare step.

    Args:
        as_: use the format and precision that this variant of ours has chosen.

    Raises:
        FailedError: that variant has not run yet.
    """
    chosen: dict[str, Any] = {}
    if as_ is not None:
        if (workload.name, ranks, as_) not in session.choices:
            raise FailedError(f"{as_} did not run, so its choices are not known")
        chosen = session.choices[workload.name, ranks, as_]
    module, more = "benchmarks.compare.programs.bare_step", ("--choices", json.dumps(chosen))
    return _read(session, workload, ranks, sys.executable, module, more)


def measure_ours(
    session: Session,
    workload: Workload,
    ranks: int,
    name: str,
    settings: Sequence[str],
    launcher: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Reading:
    """Our throughput in an ordinary run; with one checkpoint in the window if the workload `saves`.

    Args:
        name: of the variant, under which the session keeps what the run has chosen.
        launcher: see `session.train`, as for `flags`.
    """
    first, last = workload.window(session.quick)
    every = first + (last - first) // 2 if workload.saves else last
    schedule = (f"train.max_steps={last}", f"checkpoint.every_steps={every}")
    ours = train(session, workload, ranks, *schedule, *settings, launcher=launcher, flags=flags)
    session.choices[workload.name, ranks, name] = ours.choices
    return Reading(rate(ours.readings(), workload.batch, first, last), ours.outcome)


def _read(
    session: Session, workload: Workload, ranks: int, python: str | Path, module: str, more: Sequence[str]
) -> Reading:
    """Run a module that writes readings; its ranks share the cores as ours do."""
    first, last = workload.window(session.quick)
    file = session.path("readings")
    asked = [workload.name, "--steps", str(last), "--device", session.device, "--readings", str(file)]
    env = {"OMP_NUM_THREADS": str(max(1, cores() // ranks))} if ranks > 1 else {}
    command = [*python_or_torchrun(python, ranks), "-m", module, *asked, *more]
    outcome, readings = run_and_read(command, file, last, env)
    return Reading(rate(readings, workload.batch, first, last), outcome)


def rate(readings: Sequence[dict[str, Any]], batch: int, first: int, last: int) -> float:
    """Samples a second from the end of step `first` to the end of step `last`.

    Args:
        readings: with `step`, the number of finished steps, and `time`, in seconds.
        batch: samples a step.

    Raises:
        FailedError: there is no reading of one of the two steps.
    """
    times = {reading["step"]: reading["time"] for reading in readings}
    if missing := {first, last} - set(times):
        raise FailedError(f"there is no reading of step {sorted(missing)}, only of {sorted(times)}")
    return (last - first) * batch / float(times[last] - times[first])
