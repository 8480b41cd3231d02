"""What must not grow: memory and time a step over many steps and checkpoints, start and memory over a data set's size.

    python -m benchmarks.single.growth [--quick] [--measures steps checkpoints start epoch ranks] [--rounds 3]

One process, or two ranks, trains a tiny network on made images of 8x8. Prints a table and writes it to
`benchmarks/results/growth-<date>.md` and `.json`, with `-quick` or `-part` in the name where it is not all of it, by
Ctrl-C or a failure too, and none overwrites another.
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
"""What the last tenth or the largest size may be of the first, where it should be the same."""
PAUSE = 0.1
"""Seconds that the start of an epoch may take at any size."""
ORDERS = 11
"""Bytes a sample that a rank may have for itself: 8 are two orders in int32, and a third would make it 12."""
STARTED = 600
"""Steps of a start: more than are prepared together, so that what the first ones put off is seen."""
SETTLED = 5.0
"""Seconds that ranks go on training before their memory is looked at: the next epoch's order is drawn meanwhile."""
PATIENCE = 900.0  # seconds after which a run is given up


@dataclass(frozen=True)
class Finding:
    """One number at several places or sizes, and whether it grows as it should."""

    measure: str
    what: str
    unit: str
    values: dict[str, float]
    """Medians by place or size."""
    limit: str
    """What was to be kept, in words."""
    is_kept: bool


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    steps: int
    checkpoints: int
    sizes: dict[str, int]
    rounds: int


def main() -> int:
    """Measure, and write what was found; returns the exit code, 1 where something could not be measured."""
    given = _parse()
    check_out(given.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is being measured ends too
    scale = Scale(100_000, 100, SIZES, given.rounds)
    if given.quick:
        scale = Scale(5_000, 20, dict(list(SIZES.items())[:2]), given.rounds)
    about = {**about_machine(), "others": others_now()}
    findings, missing = _measured(given.measures or list(MEASURES), scale)
    kind = ("-quick" if given.quick else "") + ("-part" if given.measures or missing else "")
    _write(findings, missing, scale, about, given.out, kind)
    return 1 if any(reason != NO_TIME for reason in missing.values()) else 0


def _measured(names: Sequence[str], scale: Scale) -> tuple[list[Finding], dict[str, str]]:
    """What is found, and why a measure is missing or not whole; after Ctrl-C what was found before counts."""
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
    """Time a step, memory, and bytes a line, in the first tenth of a long run and in the last."""
    every = scale.steps // 100
    settings = [f"train.max_steps={scale.steps}", f"log.every_steps={every}", "checkpoint.every_steps=1000000"]
    directory, samples = _sampled_run(folder, SIZES["10 thousand"], "steps", settings)
    lines = _trained(directory)
    yield from _tenths("steps", f"{scale.steps:,} steps", lines, samples)
    yield _lengths("steps", "a line of metrics.jsonl", directory / "metrics.jsonl")
    yield _lengths("steps", "a line of ledger.jsonl", directory / "ledger.jsonl")


def over_checkpoints(folder: Path, scale: Scale) -> Iterator[Finding]:
    """The same over many checkpoints; each time is of the steps from one to the next, with what they wait for it."""
    every = 25
    steps = every * (scale.checkpoints + 1)
    settings = [f"train.max_steps={steps}", f"log.every_steps={every}", f"checkpoint.every_steps={every}"]
    directory, samples = _sampled_run(folder, SIZES["10 thousand"], "checkpoints", settings)
    yield from _tenths("checkpoints", f"{scale.checkpoints} checkpoints", _trained(directory), samples)
    there = len(list((directory / "checkpoints").glob("step_*")))
    yield Finding(
        "checkpoints", "kept at the end", "", {"all": there}, "at most 4: the newest three and the best", there <= 4
    )


def over_sizes(folder: Path, scale: Scale) -> Iterator[Finding]:
    """From the command to the end of the first step, by the size of a data set that is cached, and the steps after."""
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
    """How long the first batch of the second epoch takes, where the first has lasted a while, and the memory then."""
    values, private = {}, {}
    for name, size in scale.sizes.items():
        found = [_epoch(folder, size) for _ in range(scale.rounds)]
        values[name] = statistics.median(each["first"] - each["usual"] for each in found)
        private[name] = statistics.median(each["private"] for each in found)
    yield Finding(
        "epoch", "the first batch of an epoch takes longer than others by", "s", values,
        f"at most {PAUSE} s", max(values.values()) <= PAUSE,
    )  # fmt: skip
    yield _orders("epoch", "private memory in the second epoch", scale, private)


def of_ranks(folder: Path, scale: Scale) -> Iterator[Finding]:
    """Memory of each of two ranks some seconds after their start, in the largest data set in its first epoch."""
    largest: dict[str, Sample] = {}
    for name, size in scale.sizes.items():
        largest[name] = max(_ranks_memory(folder, size), key=lambda sample: sample.private)
    private = {name: sample.private for name, sample in largest.items()}
    in_mib = {name: size / 2**20 for name, size in private.items()}
    yield Finding("ranks", "private memory of a rank, of two", "MiB", in_mib, "", True)
    yield _orders("ranks", "private memory after the start", scale, private)
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
    """Should be the same everywhere: the last at most `FLAT` times the first."""
    first, *_, last = values.values()
    return Finding(measure, what, unit, values, f"the last at most {FLAT} x the first", last <= FLAT * first)


def _orders(measure: str, what: str, scale: Scale, private: Mapping[str, float]) -> Finding:
    """Whether private memory, in bytes by the size of the data set, grows by no more than two orders."""
    (fewest, low), *_, (most, high) = zip(scale.sizes.values(), private.values(), strict=True)
    a_sample = (high - low) / (most - fewest)
    return Finding(
        measure, f"{what} that grows with the data set", "bytes a sample", {"largest and smallest": a_sample},
        f"at most {ORDERS}: the orders of two epochs; a image has 64", a_sample <= ORDERS,
    )  # fmt: skip


def _tenths(measure: str, what: str, lines: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> Iterator[Finding]:
    """Time a step and memory in the first tenth, but for its first line, and in the last.

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
    """Bytes a line, the median: where it is the same, a file grows with its lines and no faster."""
    lines = path.read_bytes().splitlines()
    count = max(1, len(lines) // 10)
    tenths = {"first tenth": lines[:count], "last tenth": lines[-count:]}
    return _flat(measure, what, "bytes", {name: statistics.median(map(len, tenth)) for name, tenth in tenths.items()})


def _config(folder: Path, size: int) -> Path:
    """The settings of runs on so many images, which lie in the cache then."""
    path = folder / f"{size}.yaml"
    if not path.exists():
        path.write_text(CONFIG.format(size=size, cache=folder / "cache"), encoding="utf-8")
        run([sys.executable, "-m", "benchmarks.single.growth_data", "make", str(path)], timeout=PATIENCE)
        run([sys.executable, "-m", "dist_train", str(path), "train.max_steps=1", f"run.dir={folder / f'warm-{size}'}"])
    return path


def _sampled_run(folder: Path, size: int, name: str, settings: Sequence[str]) -> tuple[Path, list[Sample]]:
    """An ordinary run of one process to its end; its directory, and its memory meanwhile."""
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
    """When a command was given, and the ends of its steps."""
    directory = Path(tempfile.mkdtemp(dir=folder))
    config = _config(folder, size)
    asked = [f"train.max_steps={STARTED}", "log.every_steps=1", f"run.dir={directory}"]
    outcome = run([sys.executable, "-m", "dist_train", str(config), *asked], timeout=PATIENCE)
    return outcome.started, [float(line["time"]) for line in _trained(directory)]


def _epoch(folder: Path, size: int) -> dict[str, float]:
    asked = ["-m", "benchmarks.single.growth_data", "epoch", str(_config(folder, size))]
    outcome = run([sys.executable, *asked], timeout=PATIENCE)
    found: dict[str, float] = json.loads(outcome.output.splitlines()[-1])
    return found


def _ranks_memory(folder: Path, size: int) -> list[Sample]:
    """The memory of each of two ranks some steps after their start."""
    directory = Path(tempfile.mkdtemp(dir=folder))
    config = _config(folder, size)
    asked = [str(config), f"run.dir={directory}", "log.every_steps=10", "checkpoint.every_steps=1000000"]
    with _running([*torchrun(sys.executable, 2), "-m", "dist_train", *asked]) as process:
        _wait_for(lambda: len(_trained(directory)) >= 20, process)
        time.sleep(SETTLED)
        ranks = [pid for pid in family(process.pid) if _is_rank(pid)]
        samples = samples_of(ranks)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)  # what is left after it is killed
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
    deadline = time.monotonic() + PATIENCE
    while not is_there():
        if process.poll() is not None or time.monotonic() > deadline:
            raise FailedError("the ranks ended before they had trained")
        time.sleep(0.2)


@contextmanager
def _running(command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A process with its output thrown away; what is left of it is killed at the end."""
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


def _trained(directory: Path) -> list[dict[str, Any]]:
    """The lines of kind `train` of a run; none where there is no file yet."""
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
    """The table on the terminal and in `out`; `kind`: what tells the files from those of a full session of the day."""
    date = datetime.date.today().isoformat()
    text = table(("measure", "what", "measured", "to be kept", "kept"), map(_cells, findings))
    head = (
        f"{about['processor']}, {about['cores']} cores, of which others used {about['others']:.1f} at the "
        f"beginning; Python {about['python']}, torch {about['packages']['torch']}; commit {about['commit']}. `start` "
        f"and `epoch` are medians of {scale.rounds} rounds, the others of one run."
    )
    text += "".join(f"\n\nNot measured, or not all of it: {name}: {why}" for name, why in missing.items())
    content = {
        "date": date, "about": about, "scale": asdict(scale), "findings": [asdict(each) for each in findings],
        "missing": dict(missing),
    }  # fmt: skip
    path = write_both(out, f"growth-{date}{kind}", content, f"# What must not grow, {date}\n\n{head}\n\n{text}\n")
    print(f"\n{head}\n\n{text}\n\n{path.with_suffix('.md')}")


if __name__ == "__main__":
    sys.exit(run_guarded(main))
