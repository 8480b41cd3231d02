"""What each mechanism gains: whole runs with it and without it, in turns.

    python -m benchmarks.single.mechanisms [NAME ...] [--rounds 3] [--out DIR]

Each round runs every row once with the mechanism and once without it, a few seconds each. Prints a table of medians and
of the gain, the median of the ratios of the rounds, and writes it to `benchmarks/results/` as
`mechanisms-<machine>-<date>.md` and `.json`. Needs MNIST and CIFAR-10 in $DIST_TRAIN_DATA. Ctrl-C ends it and keeps
what was measured.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.compare.measures import checkpoints, evaluation, start, throughput
from benchmarks.compare.session import Session, train
from benchmarks.compare.workloads import RESNET, SMALL, TUTORIAL, WORKLOADS
from benchmarks.machine import about_machine, machine_name
from benchmarks.results import DIRECTORY, check_out, write_both
from benchmarks.rounds import Case, Reading, Record, RoundsResult, Spread, Task, ratio, records_of, run_rounds
from benchmarks.tables import number, table
from dist_train.system.exit import Parser, run_guarded
from launch.arguments import number_from

FP32, AUTO = "train.precision=fp32", "train.precision=auto"
FILES, SIDE = 2000, 256
"""JPEG files of the data set that shows the cache, and their height and width in pixels."""


@dataclass(frozen=True)
class Variant:
    """How a run is started with a mechanism, or without it."""

    text: str
    """Shown in the table."""
    settings: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    """Default: `python -m dist_train`, under torchrun for several ranks."""
    flags: tuple[str, ...] = ()
    """For the launcher."""


@dataclass(frozen=True)
class Row:
    """One comparison: the same run with a mechanism and without it."""

    mechanism: str
    what: str
    unit: str
    """A rate if it ends in `/s`: more is better. Else a time."""
    measure: Callable[[Session, Variant], Reading]
    on: Variant
    off: Variant

    def case(self, variant: Variant) -> Case:
        """The case of one of the two variants."""
        return Case("mechanism", self.what, 1, f"{self.mechanism}: {variant.text}", self.unit)

    def gain(self, records: Sequence[Record]) -> Spread | None:
        """How many times as fast the run is with the mechanism, by round; None if a variant has no reading."""
        on, off = self.case(self.on), self.case(self.off)
        return ratio(records, on, off) if self.unit.endswith("/s") else ratio(records, off, on)


def by_setting(key: str, on: str, off: str, *more: str) -> dict[str, Variant]:
    """The two variants of a mechanism that has a setting; `more`: settings of both."""
    return {name: Variant(f"{key}={value}", (f"{key}={value}", *more)) for name, value in (("on", on), ("off", off))}


def by_program(mechanism: str, *settings: str) -> dict[str, Variant]:
    """The two variants of a mechanism that `benchmarks.single.without` leaves out."""
    launcher = (sys.executable, "-m", "benchmarks.single.without", mechanism)
    return {"on": Variant("with", settings), "off": Variant("without", settings, launcher)}


def throughput_row(mechanism: str, workload: str, ranks: int, variants: dict[str, Variant], precision: str) -> Row:
    """A row of samples/s in the steady state of a workload."""

    def measure(session: Session, variant: Variant) -> Reading:
        return throughput.measure_ours(
            session, WORKLOADS[workload], ranks, variant.text, [precision, *variant.settings], variant.launcher
        )

    what = f"{WORKLOADS[workload].title}, {precision.partition('=')[2]}, {ranks} rank{'s' if ranks > 1 else ''}"
    return Row(mechanism, what, throughput.UNIT, measure, **variants)


def evaluation_row(mechanism: str, workload: str, variants: dict[str, Variant], precision: str) -> Row:
    """A row of the seconds that an evaluation of the test split takes during a training."""

    def measure(session: Session, variant: Variant) -> Reading:
        return evaluation.measure_ours(session, WORKLOADS[workload], [precision, *variant.settings], variant.launcher)

    what = f"evaluation of 10,000, {WORKLOADS[workload].title}, {precision.partition('=')[2]}"
    return Row(mechanism, what, "s", measure, **variants)


def measure_start(ranks: int, session: Session, variant: Variant) -> Reading:
    """Seconds to the first step of the MNIST example."""
    return start.measure_ours(session, variant.launcher, variant.flags, ranks)


def measure_wait(session: Session, variant: Variant) -> Reading:
    """Milliseconds that a step of ResNet-18 waits for a checkpoint."""
    return checkpoints.measure_waits(session, *variant.settings)[0]


def measure_start_on_files(session: Session, variant: Variant) -> Reading:
    """Seconds to the first step on JPEG files, with a cache that an earlier run has filled or with an empty one."""
    root = session.directory / "images"
    if not root.exists():
        write_images(root)
    filled = session.directory / "filled-cache"
    settings = (*start.ONE_STEP, "data.name=image_folder", f"data.root={root}", "data.resize=32")
    if variant.text == "filled cache":
        if not filled.exists():
            train(session, TUTORIAL, 1, *settings, f"data.cache={filled}")
        return start.first_step(train(session, TUTORIAL, 1, *settings, f"data.cache={filled}"))
    return start.first_step(train(session, TUTORIAL, 1, *settings, f"data.cache={session.path('empty-cache')}"))


def write_images(root: Path) -> None:
    """Write random JPEG files of `SIDE` pixels in ten folders, and a few for the test split."""
    for split, count in (("train", FILES), ("test", 10)):
        for label in range(10):
            (root / split / str(label)).mkdir(parents=True)
        images = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8).numpy()
        for index, pixels in enumerate(images):
            Image.fromarray(pixels).save(root / split / str(index % 10) / f"{index}.jpg")


ROWS = (
    *(
        throughput_row("shared_memory", name, 2, by_setting("distributed.shared_memory", "auto", "off"), FP32)
        for name in WORKLOADS
    ),
    *(
        throughput_row("allocator", name, 1, by_setting("distributed.allocator", "auto", "system"), FP32)
        for name in ("mnist", "tutorial", "resnet")
    ),
    *(
        throughput_row("channels_last", name, 1, by_setting("train.channels_last", "auto", "off"), precision)
        for name, precision in (("mnist", FP32), ("resnet", FP32), ("resnet", AUTO))
    ),
    *(
        throughput_row("in_memory", name, 1, by_setting("data.loader", "in_memory", "workers"), FP32)
        for name in ("mnist", "tutorial", "small")
    ),
    throughput_row("onednn", "small", 1, by_setting("train.onednn", "auto", "on"), FP32),
    *(
        throughput_row("cpu_layers", name, 1, by_program("cpu_layers"), precision)
        for name, precision in (("mnist", AUTO), ("tutorial", AUTO), ("tutorial", FP32))
    ),
    *(evaluation_row("cpu_layers", name, by_program("cpu_layers"), FP32) for name in ("mnist", "tutorial")),
    throughput_row("batches_ahead", "small", 1, by_program("batches_ahead"), FP32),
    Row(
        "cache", f"first step on {FILES:,} JPEG files of {SIDE}x{SIDE} pixels", "s", measure_start_on_files,
        on=Variant("filled cache"), off=Variant("empty cache"),
    ),
    Row(
        "forked_ranks", "first step of two ranks", "s", partial(measure_start, 2),
        on=Variant("dist-train train", launcher=start.AGENT, flags=("--nproc=2",)), off=Variant("torchrun"),
    ),
    Row("lazy_dynamo", "first step of one rank", "s", partial(measure_start, 1), **by_program("lazy_dynamo")),
    Row(
        "asynchronous_checkpoints", "a step of ResNet-18 waits for a checkpoint", "ms", measure_wait,
        **by_setting("checkpoint.asynchronous", "true", "false"),
    ),
)  # fmt: skip
NAMES = tuple(dict.fromkeys(row.mechanism for row in ROWS))


def main() -> int:
    """Measure, and write the table; returns the exit code, 1 if a run failed."""
    options = _parse()
    check_out(options.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the measured process too
    rows = [row for row in ROWS if not options.names or row.mechanism in options.names]
    about = {**about_machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "rounds": options.rounds}
    with tempfile.TemporaryDirectory(prefix="mechanisms-") as folder:
        session = Session(Path(folder), "cpu", quick=False, peers_python=Path(sys.executable))
        for workload in (WORKLOADS["mnist"], SMALL, RESNET):
            train(session, workload, 1, *start.ONE_STEP)  # fills the cache
        result = run_rounds(list(tasks(session, rows)), options.rounds)
    text = report(about, rows, result)
    name = f"mechanisms-{machine_name(about)}-{about['date'][:10]}{'-part' if options.names or result.is_cut else ''}"
    path = write_both(options.out, name, to_dict(about, rows, result), text)
    print(f"\n{text}\n{path.with_suffix('.md')}")
    return 1 if result.missing and not result.is_cut else 0


def _parse() -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.single.mechanisms",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {' '.join(NAMES)}")
    parser.add_argument("--rounds", type=number_from(1), default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=DIRECTORY, help="directory of the results; default: %(default)s")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no mechanism {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return options


def tasks(session: Session, rows: Sequence[Row]) -> Iterator[Task]:
    """Each row with its mechanism and right after it without."""
    for row in rows:
        for variant in (row.on, row.off):
            yield Task.of(row.case(variant), partial(row.measure, session, variant))


def report(about: dict[str, Any], rows: Sequence[Row], result: RoundsResult) -> str:
    """The whole session as Markdown."""
    machine = (
        f"{about['processor']}, {about['cores']} cores, Python {about['python']}, torch {about['packages']['torch']}; "
        f"commit {about['commit']}; {about['rounds']} round(s). Medians, and the gain as the median of the ratios of "
        "the rounds, lowest to highest: 1.20 is 1.20 times as fast."
    )
    head = ("mechanism", "what is measured", "with", "without", "gain")
    parts = [
        f"# What each mechanism gains, {about['date'][:10]}",
        machine,
        table(head, [_cells(row, result.records) for row in rows]),
        *(f"Not measured: {missing.case.name}: {missing.reason}" for missing in result.missing),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(row: Row, records: Sequence[Record]) -> list[str]:
    gain = row.gain(records)
    spread = f"{gain.median:.2f} ({gain.low:.2f} to {gain.high:.2f})" if gain else ""
    return [row.mechanism, row.what, *(_value(row, each, records) for each in (row.on, row.off)), spread]


def _value(row: Row, variant: Variant, records: Sequence[Record]) -> str:
    found = records_of(records, row.case(variant))
    value = f"{number(Spread.of(record.value for record in found).median)} {row.unit}" if found else "not measured"
    return f"{variant.text}: {value}"


def to_dict(about: dict[str, Any], rows: Sequence[Row], result: RoundsResult) -> dict[str, Any]:
    """The content of the JSON file."""
    gains = [
        {"mechanism": row.mechanism, "what": row.what, "gain": gain._asdict() if gain else None}
        for row in rows
        for gain in [row.gain(result.records)]
    ]
    records = [record.to_dict() for record in result.records]
    return {"kind": "mechanisms", "about": about, "gains": gains, "records": records}


if __name__ == "__main__":
    sys.exit(run_guarded(main))
