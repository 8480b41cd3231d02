"""Where the time of a step goes on a CPU: by kind of operator, in three formats, and the processor's own rate.

    python -m benchmarks.single.operators [--workloads mnist tutorial small resnet] [--steps 50] [--out DIR]

Profiles the bare step of each workload with torch's profiler: in plain fp32 and torch's own format, as a lesson writes
it, and in the formats that our runs choose in fp32 and with `precision: auto`. Prints tables and writes them to
`benchmarks/results/operators-<machine>-<date>.md`.
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare.measures.throughput import OURS
from benchmarks.compare.programs.bare_step import Profile
from benchmarks.compare.session import Session, train
from benchmarks.compare.workloads import WORKLOADS, Workload
from benchmarks.machine import about_machine, machine_name
from benchmarks.processes import run
from benchmarks.results import DIRECTORY, check_out
from benchmarks.tables import number, table
from dist_train.system.exit import Parser, run_guarded
from launch.arguments import number_from

KINDS = {
    "convolutions": ("conv",),
    "matrix products": ("::mm", "::addmm", "::bmm"),
    "pooling": ("pool", "::maximum", "::eq", "::bitwise_xor"),
    "batch normalisation": ("batch_norm",),
    "copies and conversions": ("::copy_", "::_to_copy", "::clone", "::contiguous"),
    "activations": ("relu", "threshold", "clamp_min", "softmax", "dropout", "bernoulli"),
    "update": ("sgd",),
    "zeros and sums": ("::fill_", "::zero_", "::add", "::sum"),
}
"""Parts of operator names by kind; the first match counts."""
REST = "all else"
SIDE = 1024
"""Rows and columns of the matrices whose product gives the processor's rate."""
FORMATS = ("plain fp32", *OURS)


def main() -> int:
    """Profile and write the tables; returns the exit code."""
    parser = Parser(
        prog="python -m benchmarks.single.operators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        default=list(WORKLOADS),
        metavar="WORKLOAD",
        help=" ".join(WORKLOADS),
    )
    parser.add_argument(
        "--steps",
        type=number_from(1),
        metavar="N",
        default=50,
        help="steps to time, and to profile (default: 50)",
    )
    parser.add_argument("--out", type=Path, default=DIRECTORY)
    given = parser.parse_args()
    check_out(given.out)
    about = about_machine()
    text = "\n\n".join(_report(about, [WORKLOADS[name] for name in given.workloads], given.steps)) + "\n"
    path = given.out / f"operators-{machine_name(about)}-{datetime.date.today().isoformat()}.md"
    path.write_text(text, encoding="utf-8")
    print(f"{text}\n{path}")
    return 0


def _report(about: dict[str, Any], workloads: Iterable[Workload], steps: int) -> Iterator[str]:
    yield f"# Where the time of a step goes, {datetime.date.today().isoformat()}"
    yield (
        f"{about['processor']}, {about['cores']} cores, {', '.join(about['bf16']) or 'no bf16'}, torch "
        f"{about['packages']['torch']}; commit {about['commit']}. Milliseconds a step of the bare loop, by the "
        "profiler, which makes a short step longer; ours are the formats that our runs choose."
    )
    rates = {dtype: matrix_product_rate(dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)}
    fp32, bf16 = rates.values()
    yield (
        f"A product of matrices of {SIDE} x {SIDE} runs at {fp32:,.0f} GFLOP/s in fp32 and at {bf16:,.0f} in bf16, "
        f"{bf16 / fp32:.1f} times as fast."
    )
    with tempfile.TemporaryDirectory(prefix="operators-") as folder:
        session = Session(Path(folder), "cpu", True, Path(sys.executable))
        for workload in workloads:
            yield f"## {workload.title}"
            yield comparison_table({name: profile_workload(session, workload, steps, name) for name in FORMATS})


def profile_workload(session: Session, workload: Workload, steps: int, name: str) -> Profile:
    """Profile the bare step in one of the `FORMATS`; a run of ours of one step gives its choices."""
    choices: dict[str, Any] = {}
    if name in OURS:
        choices = train(session, workload, 1, "train.max_steps=1", *OURS[name]).choices
    file = session.path("operators")
    asked = [workload.name, "--steps", str(steps), "--choices", json.dumps(choices), "--operators", str(file)]
    run([sys.executable, "-m", "benchmarks.compare.programs.bare_step", *asked])
    return Profile(**json.loads(file.read_text(encoding="utf-8")))


def comparison_table(profiles: dict[str, Profile]) -> str:
    """A table of the profiles side by side: a row for each kind, and the totals."""
    found = [by_kind(profile.operators) for profile in profiles.values()]
    rows = [[kind, *(number(1e3 * each[kind]) for each in found)] for kind in (*KINDS, REST)]
    products = [each["convolutions"] + each["matrix products"] for each in found]
    rates = [profile.flops / seconds / 1e9 for profile, seconds in zip(profiles.values(), products, strict=True)]
    steps = [profile.seconds for profile in profiles.values()]
    rows += [
        ["a step without the profiler", *(number(1e3 * each) for each in steps)],
        ["times as fast as the first", *(f"{steps[0] / each:.2f}" for each in steps)],
        ["GFLOP/s in convolutions and matrix products", *(f"{each:,.0f}" for each in rates)],
    ]
    return table(("ms a step", *profiles), rows)


def by_kind(operators: dict[str, float]) -> dict[str, float]:
    """Seconds a step for each of `KINDS` and for the rest."""
    found = dict.fromkeys((*KINDS, REST), 0.0)
    for name, seconds in operators.items():
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)
        found[kind] += seconds
    return found


def matrix_product_rate(dtype: torch.dtype, turns: int = 20) -> float:
    """Floating-point operations a second of a large matrix product, the median of some turns."""
    matrix = torch.randn(SIDE, SIDE).to(dtype)
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - start)
    return 2 * SIDE**3 / statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(run_guarded(main))
