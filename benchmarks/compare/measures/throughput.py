"""Samples a second between two moments of a training in its steady state, everything included, at one and two ranks.

All read the same clock at the same steps: the peers and the bare step write it to a file of `--readings`, of ours it is
the `time` of the lines in `metrics.jsonl`. Ours has its log, TensorBoard, ledger and, but for ResNet-18, of which the
window holds few steps, one checkpoint in that window.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.compare.session import Session, run_and_read, started, train
from benchmarks.compare.workloads import Workload
from benchmarks.processes import FailedError, cores
from benchmarks.rounds import Case, Reading, Task

MEASURE = "throughput"
UNIT = "samples/s"
NEARLY = 0.8
"""Where two workers reach less than this share of none, one has never been faster than none."""


class Peer(NamedTuple):
    """One of `benchmarks.compare.peers` in one variant."""

    module: str
    arguments: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def loader_key(self) -> str:
        """What its best number of workers depends on: a faster step leaves a loader less time."""
        return self.module if self.precision == "fp32" else f"{self.module} {self.precision}"


PEERS = {
    "plain": Peer("plain"),
    "accelerate": Peer("accelerate"),
    "lightning": Peer("lightning", ("--quiet",)),
    "ignite": Peer("ignite"),
}
"""Those that ours is held against, in fp32."""
IN_BF16 = {
    "plain bf16": Peer("plain", precision="bf16"),
    "accelerate bf16": Peer("accelerate", precision="bf16"),
    "lightning bf16": Peer("lightning", ("--quiet",), "bf16"),
}
"""Those that can do so, on one rank; they are only shown."""
BESIDE = {"lightning defaults": Peer("lightning"), **IN_BF16}
"""All that are only shown."""
OURS = {"ours": ("train.precision=fp32",), "ours auto": ("train.precision=auto",)}
"""Our variants, and the settings of each."""
COMPILED = {"ours compiled": ("train.precision=fp32", "train.compile=model")}
"""The variants of small steps too."""
BARE_STEP = "bare step"
QUICK_ORDER = (("mnist", 1), ("small", 1), ("resnet", 1), ("mnist", 2), ("tutorial", 1))
"""Works and ranks of a quick session; what comes last is left out where the time is up."""


def case(workload: str, ranks: int, name: str) -> Case:
    """The case of this measure."""
    return Case(MEASURE, workload, ranks, name, UNIT)


def tasks(
    session: Session, workloads: Sequence[Workload], ranks: Sequence[int], names: Sequence[str] | None = None
) -> Iterator[Task]:
    """A task for each program and workload; ours before the bare steps, which use what ours has chosen."""
    asked = {(workload.name, size): workload for workload in workloads for size in ranks}
    for name, size in QUICK_ORDER if session.quick else asked:
        if (workload := asked.get((name, size))) is not None:
            for who, measure in _entrants(session, workload, size):
                if names is None or who in names:
                    yield Task.of(case(workload.name, size, who), measure)


def _entrants(session: Session, workload: Workload, ranks: int) -> Iterator[tuple[str, Callable[[], Reading]]]:
    peers = _peers(session, workload, ranks)
    for name, peer in peers.items():
        yield name, partial(measure_peer, session, workload, ranks, peer)
    for name, settings in (OURS | COMPILED if workload.name == "small" and not session.quick else OURS).items():
        yield name, partial(measure_ours, session, workload, ranks, name, settings)
    yield BARE_STEP, partial(measure_bare_step, session, workload, ranks)
    for name in OURS:
        yield bare_step_as(name), partial(measure_bare_step, session, workload, ranks, as_=name)


def bare_step_as(name: str) -> str:
    """What the bare step is called that has the format and precision of this variant of ours."""
    return f"{BARE_STEP} as {name}"


NAMES = (*PEERS, *BESIDE, *OURS, *COMPILED, BARE_STEP, *map(bare_step_as, OURS))
"""All who can be measured."""


def _peers(session: Session, workload: Workload, ranks: int) -> dict[str, Peer]:
    """Of a quick session all in the first workload only, and the plain loop in the others."""
    if session.quick:
        return PEERS if (workload.name, ranks) == QUICK_ORDER[0] else {"plain": PEERS["plain"]}
    return PEERS | BESIDE if ranks == 1 else PEERS


def measure_peer(session: Session, workload: Workload, ranks: int, peer: Peer) -> Reading:
    """A peer's throughput with its best number of workers, which is found when it is first asked for and then kept.

    One worker is tried where two are nearly as fast as none. In a quick session that of the plain loop is taken for
    all, and one is not tried.
    """
    key = workload.name, ranks, "plain" if session.quick else peer.loader_key
    if key in session.workers:
        return _peer(session, workload, ranks, peer, session.workers[key])
    found = {count: _peer(session, workload, ranks, peer, count) for count in (0, 2)}
    if not session.quick and found[2].value > NEARLY * found[0].value:
        found[1] = _peer(session, workload, ranks, peer, 1)
    told = ", ".join(f"{count}: {reading.value:,.0f}" for count, reading in sorted(found.items()))
    print(f"{workload.name}, {ranks} rank(s), {peer.loader_key}, {UNIT} by workers: {told}", flush=True)
    session.workers[key] = max(found, key=lambda count: found[count].value)
    return found[session.workers[key]]


def _peer(session: Session, workload: Workload, ranks: int, peer: Peer, workers: int) -> Reading:
    python = sys.executable if peer.module == "plain" else session.peers_python
    autocast = () if peer.precision == "fp32" else ("--autocast", peer.precision)
    more = (*peer.arguments, *autocast, "--workers", str(workers))
    return _read(session, workload, ranks, python, f"benchmarks.compare.peers.{peer.module}", more)


def measure_bare_step(session: Session, workload: Workload, ranks: int, as_: str | None = None) -> Reading:
    """The throughput of the bare step; `as_`: in the format and precision that this variant of ours has chosen.

    Raises:
        FailedError: that variant has not run yet.
    """
    chosen: dict[str, Any] = {}
    if as_ is not None:
        if (workload.name, ranks, as_) not in session.choices:
            raise FailedError(f"{as_} did not run, so its choices are not known")
        chosen = session.choices[workload.name, ranks, as_]
    return _read(
        session,
        workload,
        ranks,
        sys.executable,
        "benchmarks.compare.programs.bare_step",
        ("--choices", json.dumps(chosen)),
    )


def measure_ours(session: Session, workload: Workload, ranks: int, name: str, settings: Sequence[str]) -> Reading:
    """Our throughput, of an ordinary run; with one checkpoint in the window if the workload `saves`."""
    first, last = workload.window(session.quick)
    every = first + (last - first) // 2 if workload.saves else last
    ours = train(session, workload, ranks, f"train.max_steps={last}", f"checkpoint.every_steps={every}", *settings)
    session.choices[workload.name, ranks, name] = ours.choices
    return Reading(rate(ours.readings(), workload.batch, first, last), ours.outcome)


def _read(
    session: Session, workload: Workload, ranks: int, python: str | Path, module: str, more: Sequence[str]
) -> Reading:
    """Run a module that writes readings; several ranks share the cores as ours do."""
    first, last = workload.window(session.quick)
    file = session.path("readings")
    asked = [workload.name, "--steps", str(last), "--device", session.device, "--readings", str(file)]
    env = {"OMP_NUM_THREADS": str(max(1, cores() // ranks))} if ranks > 1 else {}
    outcome, readings = run_and_read([*started(python, ranks), "-m", module, *asked, *more], file, last, env)
    return Reading(rate(readings, workload.batch, first, last), outcome)


def rate(readings: Sequence[dict[str, Any]], batch: int, first: int, last: int) -> float:
    """Samples a second from the end of step `first` to the end of step `last`.

    Args:
        readings: with `step`, finished steps, and `time`, in seconds.
        batch: samples a step.

    Raises:
        FailedError: one of the two steps was not read.
    """
    times = {reading["step"]: reading["time"] for reading in readings}
    if missing := {first, last} - set(times):
        raise FailedError(f"the clock was not read after step {sorted(missing)}, only after {sorted(times)}")
    return (last - first) * batch / float(times[last] - times[first])
