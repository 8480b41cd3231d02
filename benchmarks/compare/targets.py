"""The speed targets of this project, as ratios of what one session has measured."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.compare.measures import checkpoints, evaluation, loading, loop, start, throughput
from benchmarks.compare.measures.throughput import IN_BF16, PEERS, bare_step_as
from benchmarks.compare.workloads import WORKLOADS
from benchmarks.rounds import Case, Record, Spread, ratio, records_of

Measured = Callable[[Sequence[Record]], Spread | None]


@dataclass(frozen=True)
class Target:
    """One ratio or time to reach."""

    text: str
    value: float
    is_minimum: bool
    """Whether `value` is the least or the most that is allowed."""
    measure: Measured
    """Computes the number from all records of a session; None if it was not measured."""

    def is_reached_by(self, measured: float) -> bool:
        return measured >= self.value if self.is_minimum else measured <= self.value


def best_of(records: Sequence[Record], cases: Iterable[Case]) -> Case | None:
    """The case with the highest median; None if none was measured."""
    found = {case: records_of(records, case) for case in cases}
    medians = {case: Spread.of(each.value for each in mine).median for case, mine in found.items() if mine}
    return max(medians, key=lambda case: medians[case], default=None)


def best_peer(records: Sequence[Record], workload: str, ranks: int) -> Case | None:
    """The fastest peer in fp32; None if none was measured."""
    return best_of(records, (throughput.case(workload, ranks, name) for name in PEERS))


def best_in_bf16(records: Sequence[Record], workload: str, ranks: int) -> Case | None:
    """The fastest peer in bf16; None if none was measured."""
    return best_of(records, (throughput.case(workload, ranks, name) for name in IN_BF16))


def over_best(above: Case, others: Sequence[Case]) -> Measured:
    """A case divided by the fastest of others."""

    def compute(records: Sequence[Record]) -> Spread | None:
        best = best_of(records, others)
        return ratio(records, above, best) if best else None

    return compute


def over_best_peer(workload: str, ranks: int, name: str) -> Measured:
    """The throughput of this variant of ours over that of the best peer in fp32."""
    return over_best(throughput.case(workload, ranks, name), [throughput.case(workload, ranks, peer) for peer in PEERS])


def over_best_in_bf16(workload: str, ranks: int, name: str) -> Measured:
    """The throughput of this variant of ours over that of the best peer in bf16."""
    return over_best(
        throughput.case(workload, ranks, name), [throughput.case(workload, ranks, peer) for peer in IN_BF16]
    )


def over(above: Case, below: Case) -> Measured:
    """One case divided by another."""
    return lambda records: ratio(records, above, below)


def over_bare_step(workload: str, ranks: int, name: str) -> Measured:
    """The throughput of this variant of ours over that of the bare step in its format and precision.

    On one rank it comes from runs right after each other (`measures.loop`), on two from the runs of a round. For the
    small workload on one rank it is the microseconds added a step.
    """
    return by_itself(loop.case(workload, name)) if ranks == 1 else over_bare_step_in_a_round(workload, ranks, name)


def over_bare_step_in_a_round(workload: str, ranks: int, name: str) -> Measured:
    """The same from the runs of a round, which may be many minutes apart."""
    return over(throughput.case(workload, ranks, name), throughput.case(workload, ranks, bare_step_as(name)))


def by_itself(case: Case) -> Measured:
    """The readings of a case that is a comparison already."""

    def compute(records: Sequence[Record]) -> Spread | None:
        mine = records_of(records, case)
        return Spread.of(record.value for record in mine) if mine else None

    return compute


PEER_TARGETS = (
    *(("mnist", 1, "ours", 2.0), ("mnist", 1, "ours auto", 3.2)),
    *(("tutorial", 1, "ours", 2.0), ("tutorial", 1, "ours auto", 3.2)),
    *(("mnist", 2, "ours", 1.5), ("mnist", 2, "ours auto", 2.0)),
    *(("tutorial", 2, "ours", 1.5), ("tutorial", 2, "ours auto", 2.0)),
    ("small", 1, "ours", 1.7),
    *(("resnet", 1, "ours", 1.15), ("resnet", 1, "ours auto", 3.0)),
)
"""Workload, ranks, variant of ours, and the least ratio of its throughput to that of the best peer."""


def all_targets() -> Iterator[Target]:
    """All targets, in the order of the report."""
    yield from _against_peers()
    data = over_best(loading.case(loading.OURS), [loading.case(name) for name in loading.THEIRS])
    yield Target("data path of ResNet-18: ours / torchvision's transforms with 0 or 2 workers", 12.0, True, data)
    files = over(loading.case(loading.FILES), loading.case(loading.FOLDER))
    yield Target("images from files: ours / ImageFolder", 1.0, True, files)
    yield from _against_the_bare_step()
    for workload in evaluation.WORKLOAD_NAMES:
        for name, target in (("ours", 4.0), ("ours auto", 7.0)):
            cases = evaluation.case(workload, "plain"), evaluation.case(workload, name)
            yield Target(f"evaluation of 10,000, {workload}: plain / {name}", target, True, over(*cases))
    yield from _of_a_run()


def _against_peers() -> Iterator[Target]:
    for workload, ranks, name, target in PEER_TARGETS:
        text = f"{WORKLOADS[workload].title}, {ranks} rank{'s' if ranks > 1 else ''}: {name} / best peer"
        yield Target(text, target, True, over_best_peer(workload, ranks, name))


def _against_the_bare_step() -> Iterator[Target]:
    for workload in ("mnist", "tutorial", "resnet"):
        for name in throughput.OURS:
            text = f"{WORKLOADS[workload].title}, 1 rank: {name} / bare step in its format"
            yield Target(text, 0.97, True, over_bare_step(workload, 1, name))
    text = f"{WORKLOADS['small'].title}, 1 rank: microseconds a step over the bare one in its format"
    yield Target(text, 60.0, False, by_itself(loop.case("small", "ours")))
    for workload in ("mnist", "tutorial", "resnet"):
        for name in throughput.OURS:
            text = f"{WORKLOADS[workload].title}, 2 ranks: {name} / bare DDP step in its format"
            yield Target(text, 0.95, True, over_bare_step(workload, 2, name))


def _of_a_run() -> Iterator[Target]:
    wait = checkpoints.wait_case
    for name in ("copy into memory that is there", "clone"):  # a clone also pays for new pages
        yield Target(f"checkpoint: the step waits / {name}", 1.2, False, over(wait("ours"), wait(name)))
    restart = over(checkpoints.restart_case(checkpoints.RESUME), checkpoints.restart_case(checkpoints.COLD_START))
    yield Target("restart: resume / cold start, to the first step", 1.2, False, restart)
    for name, target in ((start.DIST_TRAIN, 0.7), (start.TORCHRUN, 1.05)):
        measured = over(start.case(name), start.case(start.BARE))
        yield Target(f"start of two ranks: {name} / {start.BARE}", target, False, measured)
