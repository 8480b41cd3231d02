"""Samples a second between two moments of a training in its steady state, everything included, at one and two ranks.

All read the same clock at the same steps: the peers and the limit write it to a file of `--readings`, of ours it is
the `time` of the lines in `metrics.jsonl`. Ours has its log, TensorBoard, ledger and one checkpoint in that window.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import FailedError, Outcome, run
from benchmarks.rounds import Case, Reading, Task
from benchmarks.session import Session, read_lines, started, train
from benchmarks.works import Work

MEASURE = "throughput"
UNIT = "samples/s"
COUNTS = (0, 1, 2)
"""Numbers of workers of which a peer's best is taken."""


class Peer(NamedTuple):
    """One of `benchmarks.peers` in one variant."""

    module: str
    arguments: tuple[str, ...] = ()


PEERS = {
    "plain": Peer("plain"),
    "accelerate": Peer("accelerate"),
    "lightning": Peer("lightning", ("--quiet",)),
    "ignite": Peer("ignite"),
}
"""Those that ours is held against, in fp32."""
BESIDE = {
    "lightning defaults": Peer("lightning"),
    "plain bf16": Peer("plain", ("--autocast", "bf16")),
    "accelerate bf16": Peer("accelerate", ("--autocast", "bf16")),
    "lightning bf16": Peer("lightning", ("--quiet", "--autocast", "bf16")),
}
"""Those that are only shown."""
OURS = {"ours": ("train.precision=fp32",), "ours auto": ("train.precision=auto",)}
"""Our variants, and the settings of each."""
COMPILED = {"ours compiled": ("train.precision=fp32", "train.compile=step")}
"""The variants of small steps too."""
LIMIT = "limit"


def case(work: str, ranks: int, name: str) -> Case:
    """The case of this measure."""
    return Case(MEASURE, work, ranks, name, UNIT)


def tasks(session: Session, works: Sequence[Work], ranks: Sequence[int]) -> Iterator[Task]:
    """All who train each work, one after the other; ours before the limits, which take over what it has chosen."""
    for work in works:
        for size in ranks:
            for name, measure in _entrants(session, work, size):
                yield Task(case(work.name, size, name), measure)


def _entrants(session: Session, work: Work, ranks: int) -> Iterator[tuple[str, Callable[[], Reading]]]:
    peers = _peers(session, work)
    for name, peer in peers.items():
        yield name, partial(measure_peer, session, work, ranks, peer)
    for name, settings in (OURS | COMPILED if work.name == "small" and not session.quick else OURS).items():
        yield name, partial(measure_ours, session, work, ranks, name, settings)
    yield LIMIT, partial(measure_limit, session, work, ranks)
    for name in OURS:
        yield limit_as(name), partial(measure_limit, session, work, ranks, as_=name)


def limit_as(name: str) -> str:
    """What the bare step is called that has the format and precision of this variant of ours."""
    return f"{LIMIT} as {name}"


def _peers(session: Session, work: Work) -> dict[str, Peer]:
    """In a quick session the frameworks sit out the work in which nearly all time is the network's."""
    if not session.quick:
        return PEERS | BESIDE
    return {"plain": PEERS["plain"]} if work.name == "resnet" else PEERS


def measure_peer(session: Session, work: Work, ranks: int, peer: Peer, workers: int | None = None) -> Reading:
    """A peer's throughput, with its best number of workers or this one."""
    if workers is None:
        workers = session.workers.get((work.name, ranks, peer.module), 0)
    python = sys.executable if peer.module == "plain" else session.peers_python
    more = (*peer.arguments, "--workers", str(workers))
    return _read(session, work, started(python, ranks), f"benchmarks.peers.{peer.module}", more)


def measure_limit(session: Session, work: Work, ranks: int, as_: str | None = None) -> Reading:
    """The throughput of the bare step; `as_`: in the format and precision that this variant of ours has chosen.

    Raises:
        FailedError: that variant has not run yet.
    """
    chosen: dict[str, Any] = {}
    if as_ is not None:
        if (work.name, ranks, as_) not in session.choices:
            raise FailedError(f"{as_} did not run, so its choices are not known")
        chosen = session.choices[work.name, ranks, as_]
    return _read(session, work, started(sys.executable, ranks), "benchmarks.limit", ("--choices", json.dumps(chosen)))


def measure_ours(session: Session, work: Work, ranks: int, name: str, settings: Sequence[str]) -> Reading:
    """Our throughput, of an ordinary run with one checkpoint in the window."""
    first, last = work.window(session.quick)
    every = first + (last - first) // 2
    ours = train(session, work, ranks, f"train.max_steps={last}", f"checkpoint.every={every}", *settings)
    session.choices[work.name, ranks, name] = ours.choices
    return Reading(rate(ours.readings(), work.batch, first, last), ours.outcome)


def _read(session: Session, work: Work, begin: list[str], module: str, more: Sequence[str]) -> Reading:
    first, last = work.window(session.quick)
    outcome, readings = _run(session, work, [*begin, "-m", module], last, more)
    return Reading(rate(read_lines(readings), work.batch, first, last), outcome)


def _run(session: Session, work: Work, command: list[str], steps: int, more: Sequence[str]) -> tuple[Outcome, Path]:
    readings = session.path("readings")
    asked = [work.name, "--steps", str(steps), "--device", session.device, "--readings", str(readings)]
    return run([*command, *asked, *more]), readings


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


def find_workers(session: Session, works: Sequence[Work], ranks: Sequence[int]) -> None:
    """Find each peer's best number of workers and keep it for the session, the same for all its variants.

    In a quick session it is that of the plain loop for all, and one in between is not tried.
    """
    counts = (0, 2) if session.quick else COUNTS
    for work in works:
        for size in ranks:
            tried = {"plain": PEERS["plain"]} if session.quick else PEERS
            best = {peer.module: _best(session, work, size, peer, counts) for peer in tried.values()}
            for peer in PEERS.values():
                session.workers[work.name, size, peer.module] = best.get(peer.module, best["plain"])


def _best(session: Session, work: Work, ranks: int, peer: Peer, counts: Sequence[int]) -> int:
    """The count of the best median; of two readings each, taken in turns, where there is time for it."""
    found: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(1 if session.quick else 2):
        for count in counts:
            found[count].append(measure_peer(session, work, ranks, peer, count).value)
    rates = {count: statistics.median(values) for count, values in found.items()}
    told = ", ".join(f"{count}: {value:,.0f}" for count, value in rates.items())
    print(f"{work.name}, {ranks} rank(s), {peer.module}, {UNIT} by workers: {told}", flush=True)
    return max(rates, key=lambda count: rates[count])
