"""Check whether everything runs on this machine's GPU, and how fast.

    make gpu-check                                  or, with any Python that has torch:
    python3 -m benchmarks.gpu.check [--allow-cpu] [--parts group tests ...] [--minutes 8.5] [--out DIR]

One GPU is enough, and no network is needed. Each part runs in a process of its own with a time limit; what does not fit
is reported as skipped, never as passed. Prints one table and writes it to `benchmarks/results/` as `gpu-<date>.md` and
`.json`, with the output of the parts in `gpu-<date>.log`; the parts that have ended are there
already. With `--allow-cpu` and without a GPU it does what a CPU can.

Exit code 0: nothing failed; 1: something failed; 2: packages are missing; 3: there is no GPU, and no `--allow-cpu`.
"""

import argparse
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.compare.workloads import WORKLOADS
from benchmarks.gpu.rows import Row, markdown, read_rows
from benchmarks.processes import ROOT, environment, family

NEEDED = {
    "torch": "torch", "numpy": "numpy", "pydantic": "pydantic", "yaml": "pyyaml", "filelock": "filelock",
    "tqdm": "tqdm", "PIL": "pillow",
}  # fmt: skip
"""Required modules, and the packages that have them."""
USEFUL = {"pytest": "pytest", "torchvision": "torchvision", "sklearn": "scikit-learn"}
"""Optional modules; without one a part is skipped or does less, and reports it."""
POLL_SECONDS = 0.2
LATE = "no time was left"
MIN_SECONDS = 10.0  # a part with less time left does not begin


@dataclass(frozen=True)
class Part:
    """A part of the check, run by `benchmarks.gpu.parts` in a process of its own."""

    name: str
    what: str
    seconds: float
    """Its time limit; what the parts before it have left over is added."""


MINUTES = 8.5
START_SECONDS = 30.0
"""For the first start of torch, which tells what this machine has."""
# The first ones are those that say most where the time is cut short. Together they take MINUTES.
PARTS = (
    Part("group", "a process group of one by torchrun: NCCL on a GPU, Gloo on a CPU", 45),
    Part("ddp", "DistributedDataParallel on one GPU: NCCL with one rank, Gloo with two", 75),
    Part("compiled", "throughput with train.compile=model", 85),
    Part("profile", "kernels of a step, and how long the GPU is busy", 30),
    *(Part(name, f"throughput: {workload.title}", 35) for name, workload in WORKLOADS.items()),
    Part("checkpoint", "what a step waits for a checkpoint of ResNet-18", 25),
    Part("tests", "the tests that need a GPU", 80),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; returns the exit code."""
    started = time.monotonic()
    given = _parse(arguments)
    if missing := missing_packages(NEEDED):
        print(
            f"gpu-check: {sys.executable} lacks {', '.join(missing)}. Install them there, or give another Python",
            file=sys.stderr,
        )
        return 2
    parts = [part for part in PARTS if not given.parts or part.name in given.parts]
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        check = Check(Path(folder), started + 60 * given.minutes)
        facts = check.facts()
        if "fault" in facts:
            print(f"gpu-check: torch does not start here: {facts['fault']}", file=sys.stderr)
            return 1
        if not facts["gpu"] and not given.allow_cpu:
            _skip_all(parts, facts)
            return 3
        rows: list[Row] = []
        for number, part in enumerate(parts, start=1):
            later = sum(other.seconds for other in parts[number:])
            rows += check.run_part(part, "cuda" if facts["gpu"] else "cpu", later)
            text = _write(facts, rows, check.log, given.out)  # a machine may be taken away at any moment
        print(f"\n{text}")
    return 1 if any(row.outcome == "failed" for row in rows) else 0


def missing_packages(modules: dict[str, str]) -> list[str]:
    """The packages whose modules are missing."""
    return [package for module, package in modules.items() if importlib.util.find_spec(module) is None]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--allow-cpu", action="store_true", help="without a GPU, do what a CPU can")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="only these")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time limit of all parts (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(arguments)


def _skip_all(parts: Sequence[Part], facts: dict[str, Any]) -> None:
    for part in parts:
        print(f"{part.name}: skipped: torch finds no GPU ({part.what})")
    built = f"torch {facts['torch']}, CUDA: {facts['CUDA']}"
    print(f"gpu-check: nothing was checked ({built}); --allow-cpu does what a CPU can", file=sys.stderr)


class Check:
    """Runs the parts one after the other until the deadline."""

    def __init__(self, folder: Path, deadline: float) -> None:
        """
        Args:
            folder: for temporary files; removed at the end.
            deadline: of `time.monotonic`.
        """
        self._folder, self._deadline = folder, deadline
        self.log = folder / "log"
        self.log.touch()

    def facts(self) -> dict[str, Any]:
        """Versions, driver and GPU; `gpu` is None if there is none. Only a `fault` if torch does not start."""
        file = self._folder / "facts.json"
        if fault := self._run(["facts", "--sheet", str(file)], 120):
            return {"fault": fault}
        found = json.loads(file.read_text(encoding="utf-8"))
        return {**found, "missing": missing_packages(USEFUL)}

    def run_part(self, part: Part, device: str, later: float = 0.0) -> list[Row]:
        """Run a part within its time limit, or for as long as leaves the parts after it their `later` seconds.

        Returns:
            Its rows, planned ones as skipped or failed.
        """
        sheet = self._folder / f"{part.name}.jsonl"
        left = self._deadline - time.monotonic()
        left = max(min(part.seconds, left), left - later)
        print(f"-- {part.what}", flush=True)
        if left < MIN_SECONDS:
            return [_print_row(Row(part.name, part.what, "skipped", note=LATE))]
        ended = self._run([part.name, "--device", device, "--sheet", str(sheet)], left, sheet)
        rows = read_rows(sheet)
        if not rows or (ended and not any(row.outcome == "planned" for row in rows)):
            rows.append(Row(part.name, part.what, "planned"))
        return [_print_row(_close(row, ended)) if row.outcome == "planned" else row for row in rows]

    def _run(self, arguments: list[str], seconds: float, sheet: Path | None = None) -> str:
        """Run `benchmarks.gpu.parts` and print its rows as they come; returns how it failed, or an empty string."""
        command = [sys.executable, "-m", "benchmarks.gpu.parts", *arguments, "--folder", str(self._folder)]
        deadline = time.monotonic() + seconds
        printed: set[tuple[str, str]] = set()
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n== {' '.join(arguments)}\n")
            log.flush()
            process = subprocess.Popen(
                [*command, "--seconds", f"{seconds:.0f}"], cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                while process.poll() is None and time.monotonic() < deadline:
                    time.sleep(POLL_SECONDS)
                    _print_new(sheet, printed)
            finally:
                is_late = process.poll() is None
                kill(process)
        _print_new(sheet, printed)
        if is_late:
            return LATE
        return f"the process ended with {process.returncode}: {_last_line(self.log)}" if process.returncode else ""


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and its descendants, also those in sessions of their own, such as torchrun's workers."""
    for pid in sorted(family(process.pid) if process.poll() is None else ()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a process that hangs in a driver survives SIGKILL
        process.wait(10)


def _close(row: Row, ended: str) -> Row:
    """A planned row that was not replaced: skipped if the time was up, else failed."""
    is_late = ended == LATE
    return replace(row, outcome="skipped" if is_late else "failed", note=ended or "the part ended without it")


def _print_new(sheet: Path | None, printed: set[tuple[str, str]]) -> None:
    """Print the finished rows that are not in `printed`, and add them to it."""
    for row in read_rows(sheet) if sheet else []:
        if row.outcome != "planned" and row.key not in printed:
            printed.add(_print_row(row).key)


def _print_row(row: Row) -> Row:
    value = "" if row.value is None else f"  {row.value:,.4g} {row.unit}"
    print(f"{row.outcome:<9} {row.part}: {row.name}{value}{f'  ({row.note})' if row.note else ''}", flush=True)
    return row


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def _write(facts: dict[str, Any], rows: Sequence[Row], log: Path, out: Path) -> str:
    """Write the table of the parts so far to `out`, with the facts and the log; return it."""
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in ("passed", "measured", "failed")}
    late = sum(row.outcome == "skipped" and row.note == LATE for row in rows)
    others = sum(row.outcome == "skipped" for row in rows) - late
    summary = f"{', '.join(f'{count} {outcome}' for outcome, count in counts.items())}, {others} skipped"
    summary += f", {late} skipped because no time was left"
    text = f"{_describe(facts)}\n\n{markdown(rows)}\n\n{summary}\n"
    name = f"{'gpu' if facts['gpu'] else 'gpu-check-on-cpu'}-{datetime.date.today().isoformat()}"
    out.mkdir(parents=True, exist_ok=True)
    content = {"facts": facts, "rows": [asdict(row) for row in rows]}
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(f"# {name}\n\n{text}", encoding="utf-8")
    (out / f"{name}.log").write_bytes(log.read_bytes())
    return f"{text}\n{out / name}.md"


def _describe(facts: dict[str, Any]) -> str:
    missing = facts.get("missing") or []
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items() if name != "missing")
    return listed + (f"\n- not installed, and not checked: {', '.join(missing)}" if missing else "")


if __name__ == "__main__":
    sys.exit(main())
