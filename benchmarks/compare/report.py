"""The results of a session as Markdown: `results/<machine>-<date>.md`, and the generated part of the README."""

from collections.abc import Iterable, Sequence

from benchmarks.compare.before import NOTE, before_table
from benchmarks.compare.measures import checkpoints, evaluation, loading, loop, start, throughput
from benchmarks.compare.results import Results, check_targets, kinds
from benchmarks.compare.targets import (
    best_in_bf16,
    best_peer,
    over_bare_step,
    over_bare_step_in_a_round,
    over_best_in_bf16,
    over_best_peer,
)
from benchmarks.compare.workloads import WORKLOADS
from benchmarks.rounds import DISTURBED, Case, Record, Spread, records_of
from benchmarks.tables import number, table

TARGETS = "The median of the ratios of the rounds, lowest to highest. A row without a number was not measured."
THROUGHPUT = (
    "The best peer is the one with the highest median. Factors are medians of the ratios of single rounds: over the "
    "best peer in fp32, and for `precision: auto` also over the best in bf16. Ignite has no bf16 on a CPU. Each peer "
    "uses its best number of loader workers; in a quick session, that of the plain loop. A bare step is forward, "
    "backward and update on one fixed batch, in DDP on two ranks: `bare step` in plain fp32, as a lesson writes it, "
    "`bare step as ours` and `bare step as ours auto` in the format and precision that our run has chosen. On one rank "
    "the last column compares runs right after each other (`loop` below), on two ranks the runs of a round."
)
MEMORY = "Peak resident MiB in the runs of the throughput; shared pages count once for each process."
DISTURBANCE = (
    f": other processes used more than {DISTURBED} of a core meanwhile. If a case or a pair has undisturbed rounds, "
    "only those count."
)
RUN_COSTS = (
    (
        "two ranks, from the command to the first step",
        [start.case(name) for name in (start.BARE, "accelerate, torchrun", "lightning")],
        [start.case(name) for name in (start.DIST_TRAIN, start.TORCHRUN)],
    ),
    *(
        (
            f"evaluation of 10,000, {workload}",
            [evaluation.case(workload, name) for name in ("plain", "plain bf16")],
            [evaluation.case(workload, name) for name in throughput.OURS],
        )
        for workload in evaluation.WORKLOAD_NAMES
    ),
    (
        "a step waits for a checkpoint of ResNet-18",
        [checkpoints.wait_case(name) for name in checkpoints.COPIES],
        [checkpoints.wait_case(name) for name in checkpoints.OURS],
    ),
    (
        "crop, flip, normalise",
        [loading.case(name) for name in loading.THEIRS],
        [loading.case(loading.OURS)],
    ),
)
"""Costs of a run besides its steps: a title, the cases of others, and ours."""
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def report(results: Results) -> str:
    """The report of a whole session."""
    disturbed = sum(record.is_disturbed for record in results.records)
    parts = [
        f"# Benchmark of {results.about['date'][:10]}",
        _machine(results),
        f"{disturbed} of {len(results.records)} readings were disturbed{DISTURBANCE}",
        *_before(results),
        *(_peers(results) if results.about.get("peers", True) else ()),
        "## All numbers",
        medians(results.records),
        "## Peak memory",
        MEMORY,
        _memory(results.records),
        *_missing(results),
    ]
    return "\n\n".join(parts) + "\n"


def _peers(results: Results) -> list[str]:
    return [
        "## Targets",
        TARGETS,
        _targets(results.records),
        "## Throughput and the best peer",
        THROUGHPUT,
        throughput_table(results.records),
        "## Start, evaluation, checkpoints and data",
        runs_table(results.records),
    ]


def readme_part(results: Results, source: str) -> str:
    """The part of the README between the marks, with them; `source`: path of the report."""
    tables = [throughput_table(results.records), runs_table(results.records)]
    return "\n\n".join([BEGIN, *tables, f"{_machine(results)} All numbers: [{source}]({source}).", END])


def with_part(document: str, part: str) -> str:
    """A document with the part between the marks replaced; raises ValueError if it has no marks."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN} and {END}")
    return head + part + tail


def throughput_table(records: Sequence[Record]) -> str:
    """A row for each workload and number of ranks: the best peer, ours, the bare step."""
    measured = dict.fromkeys(
        (case.workload, case.ranks) for case in cases(records) if case.measure == throughput.MEASURE
    )
    rows = [_workload_row(records, workload, ranks) for workload, ranks in measured]
    head = (
        "workload",
        "ranks",
        "best peer in fp32, samples/s",
        "best peer in bf16, samples/s",
        "ours, fp32, samples/s",
        "ours, `precision: auto`, samples/s",
        "plain fp32 step, samples/s",
        "ours / bare step in our format: fp32, auto",
    )
    return table(head, rows)


def _workload_row(records: Sequence[Record], workload: str, ranks: int) -> list[str]:
    best = best_peer(records, workload, ranks)
    bare_step = throughput.case(workload, ranks, throughput.BARE_STEP)
    in_bf16 = best_in_bf16(records, workload, ranks)
    return [
        WORKLOADS[workload].title,
        str(ranks),
        f"{best.name} {_median(records, best)}" if best else "",
        f"{in_bf16.name.removesuffix(' bf16')} {_median(records, in_bf16)}" if in_bf16 else "",
        *(_beside_best(records, workload, ranks, name) for name in throughput.OURS),
        _median(records, bare_step),
        _beside_bare_step(records, workload, ranks),
    ]


def runs_table(records: Sequence[Record]) -> str:
    """Costs of a run besides its steps: others and ours, a row for each measure that has numbers."""
    rows = [(title, _list_medians(records, others), _list_medians(records, ours)) for title, others, ours in RUN_COSTS]
    return table(("what", "others", "ours"), [row for row in rows if all(row)])


def _list_medians(records: Sequence[Record], cases: Iterable[Case]) -> str:
    measured = [(case, _median(records, case)) for case in cases]
    return "; ".join(f"{case.name} {value} {case.unit}" for case, value in measured if value)


def _beside_bare_step(records: Sequence[Record], workload: str, ranks: int) -> str:
    found = [over_bare_step(workload, ranks, name)(records) for name in throughput.OURS]
    if ranks == 1 and workload == loop.SMALL and found[0]:
        return f"{_with_range(found[0], '.0f')} us a step more"
    is_far = ranks == 1 and not any(found)
    if is_far:
        found = [over_bare_step_in_a_round(workload, ranks, name)(records) for name in throughput.OURS]
    shares = ", ".join(_with_range(each, ".2f") if each else "-" for each in found)
    return f"{shares} (runs minutes apart)" if is_far and any(found) else shares


def _with_range(spread: Spread, form: str) -> str:
    """The median, with the range if there are several readings."""
    if spread.n == 1:
        return format(spread.median, form)
    return f"{spread.median:{form}} ({spread.low:{form}} to {spread.high:{form}})"


def _beside_best(records: Sequence[Record], workload: str, ranks: int, name: str) -> str:
    times = over_best_peer(workload, ranks, name)(records)
    in_bf16 = over_best_in_bf16(workload, ranks, name)(records) if name == "ours auto" else None
    value = _median(records, throughput.case(workload, ranks, name))
    factors = [f"{times.median:.2f} x"] if times else []
    factors += [f"{in_bf16.median:.2f} x the best in bf16"] if in_bf16 else []
    return f"{value} ({', '.join(factors)})" if factors else value


def _median(records: Sequence[Record], case: Case) -> str:
    found = records_of(records, case)
    return number(Spread.of(record.value for record in found).median) if found else ""


def cases(records: Iterable[Record]) -> list[Case]:
    """The cases that have records, in their order."""
    return list(dict.fromkeys(record.case for record in records))


def medians(records: Sequence[Record]) -> str:
    """A table of every case with its median, range and number of readings."""
    rows = []
    for case in cases(records):
        spread = Spread.of(record.value for record in records_of(records, case))
        disturbed = sum(record.is_disturbed for record in records if record.case == case)
        rows.append(
            [
                case.measure, case.workload, str(case.ranks), case.name, f"{number(spread.median)} {case.unit}",
                f"{number(spread.low)} to {number(spread.high)}", str(spread.n), str(disturbed or ""),
            ]
        )  # fmt: skip
    return table(("measure", "workload", "ranks", "program", "median", "range", "n", "disturbed"), rows)


def _before(results: Results) -> list[str]:
    if not (compared := before_table(results.records)):
        return []
    return [f"## This version and {results.about.get('before') or 'the one before'}", NOTE, compared]


def _targets(records: Sequence[Record]) -> str:
    rows = []
    for each in check_targets(records):
        spread = Spread(**each["measured"]) if each["measured"] else None
        sign = "at least" if each["is_minimum"] else "at most"
        measured = (
            f"{number(spread.median)} ({number(spread.low)} to {number(spread.high)}, n {spread.n})" if spread else ""
        )
        reached = {True: "yes", False: "**no**", None: ""}[each["reached"]]
        doubt = ", disturbed" if each["disturbed"] else ""
        rows.append([each["text"], f"{sign} {each['value']:g}", measured, reached + doubt])
    return table(("what", "target", "measured", "reached"), rows)


def _memory(records: Sequence[Record]) -> str:
    rows = []
    for case in cases(record for record in records if record.case.measure == throughput.MEASURE):
        found = [record for record in records if record.case == case]
        together, largest = (max(getattr(record, name) for record in found) >> 20 for name in ("memory", "largest"))
        rows.append([case.workload, str(case.ranks), case.name, f"{together:,}", f"{largest:,}"])
    return table(("workload", "ranks", "program", "all processes", "largest process"), rows)


def _missing(results: Results) -> list[str]:
    if not results.missing:
        return []
    rows = [[*(str(part) for part in each.case[:4]), each.reason.splitlines()[0]] for each in results.missing]
    return ["## Not measured", table(("measure", "workload", "ranks", "program", "why"), rows)]


def _machine(results: Results) -> str:
    about = results.about
    kind = "".join(f", {kind}" for kind in kinds(about) if kind != "cuda")  # the device is named already
    bf16 = f", {' and '.join(about['bf16'])}" if about["bf16"] else ""
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    # Results before 28 November 2026 have no duration.
    took = f" in {about['seconds'] / 60:.0f} minutes" if "seconds" in about else ""
    return (
        f"{about['processor']}, {about['cores']} cores{bf16}, {about['memory_gib']} GiB, {about['system']}, Python "
        f"{about['python']}, {packages}; {about['device']}; {about['rounds']} round(s){took}"
        f"{kind}; commit {about['commit']}."
    )
