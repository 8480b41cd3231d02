"""Check what must not grow: memory and time a step over a long run; start and memory with the size of the data set.

    python -m benchmarks.single.growth [--quick] [--measures steps checkpoints start epoch ranks] [--rounds 3]

One process or two ranks train a tiny network on random images of 8x8 pixels. Prints a table and writes it to
`benchmarks/results/growth-<date>.md` and `.json`; the name has `-quick` or `-part` if a part is missing, also after
Ctrl-C or a failure. None overwrites another.
"""

import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.compare.session import read_lines, torchrun
from benchmarks.machine import about_machine
from benchmarks.processes import ROOT, FailedError, environment, family, others_now, run
from benchmarks.results import check_out, write_both
from benchmarks.rounds import NO_TIME
from benchmarks.single.memory import Sample, samples_of
from benchmarks.tables import number, table
from dist_train.system.exit import Parser, run_guarded
from launch.arguments import number_from

CONFIG = """
data: {{name: synthetic, shape: [1, 8, 8], num_train: {size}, num_test: 16, global_batch: 32, cache: {cache},
       normalize: {{mean: [0.5], std: [0.25]}}}}
model: {{name: mnist_cnn}}
optim: {{name: sgd, lr: 0.01, momentum: 0.9}}
train: {{max_steps: 1000000}}
distributed: {{backend: gloo, threads: 1}}
eval: {{every_epochs: 0}}
log: {{progress: 'off'}}
"""
SIZES = {"10 thousand": 10_000, "1 million": 1_000_000, "10 million": 10_000_000}
FLAT = 1.1
"""The last tenth, or the largest size, may be at most this many times the first."""
PAUSE = 0.1
"""Seconds that the first batch of an epoch may take longer than others."""
BYTES_A_SAMPLE = 1.0
"""Private memory of a rank that may grow with each sample: an order of the samples in int32 would take 4."""
NOISE = 16 * 2**20
"""Bytes by which the memory of two runs differs anyway."""
STARTED = 600
"""Steps of a start: more than are prepared at once, so that delayed work of the first ones shows."""
TRAINING_SECONDS = 5.0
"""Seconds that ranks train before their memory is read."""
RUN_TIMEOUT = 900.0  # seconds


@dataclass(frozen=True)
class Finding:
    """One number at several points or sizes, and whether it stays in its limit."""

    measure: str
    what: str
    unit: str
    values: dict[str, float]
    """Medians by point or size."""
    limit: str
    """What is allowed, in words."""
    is_kept: bool


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    steps: int
    checkpoints: int
    sizes: dict[str, int]
    rounds: int


def main() -> int:
    """Measure and write the table; returns the exit code, 1 if a measure failed."""
    given = _parse()
    check_out(given.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the measured processes too
    scale = Scale(100_000, 100, SIZES, given.rounds)
    if given.quick:
        scale = Scale(5_000, 20, dict(list(SIZES.items())[:2]), given.rounds)
    about = {**about_machine(), "others": others_now()}
    findings, missing = _measure_all(given.measures or list(MEASURES), scale)
    kind = ("-quick" if given.quick else "") + ("-part" if given.measures or missing else "")
    _write(findings, missing, scale, about, given.out, kind)
    return 1 if any(reason != NO_TIME for reason in missing.values()) else 0


def _measure_all(names: Sequence[str], scale: Scale) -> tuple[list[Finding], dict[str, str]]:
    """The findings, and why a measure is missing or incomplete; Ctrl-C keeps what was found before."""
    findings: list[Finding] = []
    missing = dict.fromkeys(names, NO_TIME)
    with tempfile.TemporaryDirectory(prefix="growth-") as folder, suppress(KeyboardInterrupt):
        for name in names:
            try:
                for finding in MEASURES[name](Path(folder), scale):
                    findings.append(finding)
                    print(" ".join(_cells(finding)), flush=True)
                del missing[name]
            except FailedError as error:
                missing[name] = str(error)
                print(f"{name}: failed: {error}", file=sys.stderr, flush=True)
    return findings, missing


def _parse() -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.single.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="5,000 steps, 20 checkpoints, two sizes")
    parser.add_argument("--measures", nargs="+", choices=list(MEASURES), help="only these")
    parser.add_argument("--rounds", type=number_from(1), default=3, help="starts at each size (default: 3)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def over_steps(folder: Path, scale: Scale) -> Iterator[Finding]:
    """Time a step, memory, and bytes a line, in the first and the last tenth of a long run."""
    every = scale.steps // 100
    settings = [f"train.max_steps={scale.steps}", f"log.every_steps={every}", "checkpoint.every_steps=1000000"]
    directory, samples = _sampled_run(folder, SIZES["10 thousand"], "steps", settings)
    lines = _train_lines(directory)
    yield from _tenths("steps", f"{scale.steps:,} steps", lines, samples)
    yield _lengths("steps", "a line of metrics.jsonl", directory / "metrics.jsonl")
    yield _lengths("steps", "a line of ledger.jsonl", directory / "ledger.jsonl")


def over_checkpoints(folder: Path, scale: Scale) -> Iterator[Finding]:
    """The same over many checkpoints; each time includes the wait for one checkpoint."""
    every = 25
    steps = every * (scale.checkpoints + 1)
    settings = [f"train.max_steps={steps}", f"log.every_steps={every}", f"checkpoint.every_steps={every}"]
    directory, samples = _sampled_run(folder, SIZES["10 thousand"], "checkpoints", settings)
    yield from _tenths("checkpoints", f"{scale.checkpoints} checkpoints", _train_lines(directory), samples)
    there = len(list((directory / "checkpoints").glob("step_*")))
    yield Finding(
        "checkpoints", "kept at the end", "", {"all": there}, "at most 4: the newest three and the best", there <= 4
    )


def over_sizes(folder: Path, scale: Scale) -> Iterator[Finding]:
    """Time from the command to the first step by the size of a cached data set, and the longest of later steps."""
    first: dict[str, list[float]] = {name: [] for name in scale.sizes}
    longest: dict[str, list[float]] = {name: [] for name in scale.sizes}
    for _ in range(scale.rounds):  # in turns
        for name, size in scale.sizes.items():
            started, times = _start(folder, size)
            first[name].append(times[0] - started)
            longest[name].append(max(after - before for before, after in pairwise(times)))
    values = {name: statistics.median(seconds) for name, seconds in first.items()}
    yield _flat("start", "from the command to the first step", "s", values)
    values = {name: statistics.median(seconds) for name, seconds in longest.items()}
    is_kept = max(values.values()) <= PAUSE
    yield Finding("start", f"the longest of steps 2 to {STARTED}", "s", values, f"at most {PAUSE} s", is_kept)


def at_an_epoch(folder: Path, scale: Scale) -> Iterator[Finding]:
    """How much longer the first batch of the second epoch takes, and the private memory there."""
    values, private = {}, {}
    for name, size in scale.sizes.items():
        found = [_epoch(folder, size) for _ in range(scale.rounds)]
        values[name] = statistics.median(each["first"] - each["usual"] for each in found)
        private[name] = statistics.median(each["private"] for each in found)
    yield Finding(
        "epoch", "the first batch of an epoch takes longer than others by", "s", values,
        f"at most {PAUSE} s", max(values.values()) <= PAUSE,
    )  # fmt: skip
    yield _growth_by_size("epoch", "private memory in the second epoch", scale, private)


def of_ranks(folder: Path, scale: Scale) -> Iterator[Finding]:
    """Memory of each of two ranks some seconds after their start."""
    largest: dict[str, Sample] = {}
    for name, size in scale.sizes.items():
        largest[name] = max(_ranks_memory(folder, size), key=lambda sample: sample.private)
    private = {name: sample.private for name, sample in largest.items()}
    in_mib = {name: size / 2**20 for name, size in private.items()}
    yield Finding("ranks", "private memory of a rank, of two", "MiB", in_mib, "", True)
    yield _growth_by_size("ranks", "private memory after the start", scale, private)
    share = {name: sample.share / 2**20 for name, sample in largest.items()}
    yield Finding("ranks", "with its share of what both have", "MiB", share, "", True)


MEASURES: dict[str, Callable[[Path, Scale], Iterator[Finding]]] = {
    "steps": over_steps,
    "checkpoints": over_checkpoints,
    "start": over_sizes,
    "epoch": at_an_epoch,
    "ranks": of_ranks,
}


def _flat(measure: str, what: str, unit: str, values: dict[str, float]) -> Finding:
    """A finding that should be the same everywhere: the last at most `FLAT` times the first."""
    first, *_, last = values.values()
    return Finding(measure, what, unit, values, f"the last at most {FLAT} x the first", last <= FLAT * first)


def _growth_by_size(measure: str, what: str, scale: Scale, private: Mapping[str, float]) -> Finding:
    """Whether private memory, in bytes by the size of the data set, grows by no more than `BYTES_A_SAMPLE`."""
    (fewest, low), *_, (most, high) = zip(scale.sizes.values(), private.values(), strict=True)
    a_sample = (high - low) / (most - fewest)
    return Finding(
        measure, f"{what} that grows with the data set", "bytes a sample", {"largest and smallest": a_sample},
        f"at most {BYTES_A_SAMPLE:g}, or {NOISE >> 20} MiB in all; an image has 64",
        a_sample <= BYTES_A_SAMPLE or high - low <= NOISE,
    )  # fmt: skip


def _tenths(measure: str, what: str, lines: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> Iterator[Finding]:
    """Time a step and memory in the first tenth, without its first line, and in the last.

    Args:
        lines: of kind `train`, in equal steps.
        samples: of the process, from its start to its end.
    """
    lines = lines[1:]  # before the first the kernels are loaded
    count = max(2, len(lines) // 10)
    tenths = {"first tenth": lines[: count + 1], "last tenth": lines[-count - 1 :]}
    times = {
        name: statistics.median(
            1000 * (after["time"] - before["time"]) / (after["step"] - before["step"])
            for before, after in pairwise(tenth)
        )
        for name, tenth in tenths.items()
    }
    yield _flat(measure, f"a step, over {what}", "ms", times)
    memory = {}
    for name, tenth in tenths.items():
        begun, ended = tenth[0]["time"], tenth[-1]["time"]
        near = [each.resident for each in samples if begun <= each.time <= ended]
        nearest = min(samples, key=lambda each: abs(each.time - ended)).resident
        memory[name] = statistics.median(near or [nearest]) / 2**20
    yield _flat(measure, f"resident memory, over {what}", "MiB", memory)


def _lengths(measure: str, what: str, path: Path) -> Finding:
    """Median bytes a line in the first and the last tenth of a file."""
    lines = path.read_bytes().splitlines()
    count = max(1, len(lines) // 10)
    tenths = {"first tenth": lines[:count], "last tenth": lines[-count:]}
    return _flat(measure, what, "bytes", {name: statistics.median(map(len, tenth)) for name, tenth in tenths.items()})


def _config(folder: Path, size: int) -> Path:
    """Settings of runs on `size` images, which are put into the cache."""
    path = folder / f"{size}.yaml"
    if not path.exists():
        path.write_text(CONFIG.format(size=size, cache=folder / "cache"), encoding="utf-8")
        run([sys.executable, "-m", "benchmarks.single.growth_data", "make", str(path)], timeout=RUN_TIMEOUT)
        run([sys.executable, "-m", "dist_train", str(path), "train.max_steps=1", f"run.dir={folder / f'warm-{size}'}"])
    return path


def _sampled_run(folder: Path, size: int, name: str, settings: Sequence[str]) -> tuple[Path, list[Sample]]:
    """Run one process to its end; returns its directory and samples of its memory."""
    directory = folder / name
    samples: list[Sample] = []
    command = [sys.executable, "-m", "dist_train", str(_config(folder, size)), f"run.dir={directory}", *settings]
    with _running(command) as process:
        while process.poll() is None:
            samples += samples_of([process.pid])
            time.sleep(0.1)
    if process.returncode:
        raise FailedError(f"{name}: exit code {process.returncode}")
    return directory, samples


def _start(folder: Path, size: int) -> tuple[float, list[float]]:
    """The time of a command, and the times at which its steps ended."""
    directory = Path(tempfile.mkdtemp(dir=folder))
    config = _config(folder, size)
    asked = [f"train.max_steps={STARTED}", "log.every_steps=1", f"run.dir={directory}"]
    outcome = run([sys.executable, "-m", "dist_train", str(config), *asked], timeout=RUN_TIMEOUT)
    return outcome.started, [float(line["time"]) for line in _train_lines(directory)]


def _epoch(folder: Path, size: int) -> dict[str, float]:
    asked = ["-m", "benchmarks.single.growth_data", "epoch", str(_config(folder, size))]
    outcome = run([sys.executable, *asked], timeout=RUN_TIMEOUT)
    found: dict[str, float] = json.loads(outcome.output.splitlines()[-1])
    return found


def _ranks_memory(folder: Path, size: int) -> list[Sample]:
    """The memory of each of two ranks some seconds after their first steps."""
    directory = Path(tempfile.mkdtemp(dir=folder))
    config = _config(folder, size)
    asked = [str(config), f"run.dir={directory}", "log.every_steps=10", "checkpoint.every_steps=1000000"]
    with _running([*torchrun(sys.executable, 2), "-m", "dist_train", *asked]) as process:
        _wait_for(lambda: len(_train_lines(directory)) >= 20, process)
        time.sleep(TRAINING_SECONDS)
        ranks = [pid for pid in family(process.pid) if _is_rank(pid)]
        samples = samples_of(ranks)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(RUN_TIMEOUT)  # what still runs then is killed
    if len(samples) != 2:
        raise FailedError(f"{len(samples)} ranks were found, not 2")
    return samples


def _is_rank(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False
    return b"-m\0dist_train\0" in command and b"torch.distributed.run" not in command


def _wait_for(is_there: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + RUN_TIMEOUT
    while not is_there():
        if process.poll() is not None or time.monotonic() > deadline:
            raise FailedError("the ranks ended before they had trained 20 log lines")
        time.sleep(0.2)


@contextmanager
def _running(command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process without output; kill what is left of it at the end."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            for pid in sorted(family(process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _train_lines(directory: Path) -> list[dict[str, Any]]:
    """The lines of kind `train` of a run; empty without a file."""
    path = directory / "metrics.jsonl"
    return [line for line in read_lines(path) if line["kind"] == "train"] if path.exists() else []


def _cells(finding: Finding) -> list[str]:
    values = ", ".join(f"{name}: {number(value)}" for name, value in finding.values.items())
    return [
        finding.measure,
        finding.what,
        f"{values} {finding.unit}",
        finding.limit,
        "yes" if finding.is_kept else "NO",
    ]


def _write(
    findings: Sequence[Finding], missing: Mapping[str, str], scale: Scale, about: dict[str, Any], out: Path, kind: str
) -> None:
    """Print the table and write it to `out`; `kind` is added to the file name."""
    date = datetime.date.today().isoformat()
    text = table(("measure", "what", "measured", "limit", "kept"), map(_cells, findings))
    head = (
        f"{about['processor']}, {about['cores']} cores, of which others used {about['others']:.1f} at the "
        f"beginning; Python {about['python']}, torch {about['packages']['torch']}; commit {about['commit']}. `start` "
        f"and `epoch` are medians of {scale.rounds} rounds, the others of one run."
    )
    text += "".join(f"\n\nNot measured completely: {name}: {why}" for name, why in missing.items())
    content = {
        "date": date, "about": about, "scale": asdict(scale), "findings": [asdict(each) for each in findings],
        "missing": dict(missing),
    }  # fmt: skip
    path = write_both(out, f"growth-{date}{kind}", content, f"# What must not grow, {date}\n\n{head}\n\n{text}\n")
    print(f"\n{head}\n\n{text}\n\n{path.with_suffix('.md')}")


if __name__ == "__main__":
    sys.exit(run_guarded(main))
