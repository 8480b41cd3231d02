"""Made-up records, readings and sessions."""

import json
import sys
from pathlib import Path

from benchmarks.compare.measures import loop, throughput
from benchmarks.compare.results import Results
from benchmarks.compare.session import Session
from benchmarks.processes import Outcome
from benchmarks.rounds import Case, Missing, Reading, Record

ONE, OTHER = Case("throughput", "mnist", 1, "one", "samples/s"), Case("throughput", "mnist", 1, "other", "samples/s")
ABOUT = {
    "date": "2026-01-02T03:04:05+00:00", "processor": "Some(R) CPU  7", "cores": 2, "bf16": ["avx512_bf16"],
    "memory_gib": 8, "system": "Linux", "python": "3.11.1", "packages": {"torch": "2.15.0"}, "commit": "abc",
    "device": "cpu", "rounds": 2, "quick": False, "workers": {},
}  # fmt: skip


def make_record(case: Case, round_: int, value: float, others: float = 0.0) -> Record:
    return Record(case, round_, value, others, memory=3 << 20, largest=2 << 20)


def make_reading(value: float, others: float = 0.0) -> Reading:
    return Reading(value, Outcome(0.0, 1.0, others, 0, 0, ""))


def make_session(directory: Path) -> Session:
    return Session(directory, "cpu", quick=True, peers_python=Path(sys.executable))


def make_throughputs(workload: str = "mnist", **values: float) -> list[Record]:
    """A record of one rank for each program; `bare_step` stands for the name `bare step`."""
    return [
        make_record(throughput.case(workload, 1, name.replace("_", " ")), 0, value) for name, value in values.items()
    ]


def make_results(**changes: float) -> Results:
    values = {
        "plain": 3000.0,
        "ignite": 3500.0,
        "ours": 7000.0,
        "ours auto": 10500.0,
        "bare step": 4000.0,
        **changes,
    }
    records = [make_record(throughput.case("mnist", 1, name), number, value + number)
               for number in range(2) for name, value in values.items()]  # fmt: skip
    more = [
        make_record(loop.case("mnist", "ours"), 0, 0.98),
        *make_throughputs("mnist", plain_bf16=4000.0, lightning_bf16=5000.0, lightning_defaults=9000.0),
    ]
    return Results(ABOUT, records + more, [Missing(ONE, "exit code 1\nmore")])


def write_results(directory: Path, name: str, **about: object) -> Path:
    results = Results(ABOUT | about, make_throughputs(plain=1000, ours=2000), [])
    path = directory / f"{name}.json"
    path.write_text(json.dumps(results.to_dict()))
    return path
