"""How fast `dist-train predict` is beside its network alone, and beside a loop of one picture at a time.

    python -m benchmarks.single.predictions RUN FOLDER [--rounds 20] [--out DIR]

RUN is a run on pictures, FOLDER holds picture files, such as cifar10-images/test of $DIST_TRAIN_DATA. All files are
predicted, a part in each round. The same pictures are computed again without reading them, and some of them one at a
time, all in one process. Prints pictures a second and ratios, medians over the rounds, and writes them to
`benchmarks/results/` as `predictions-<machine>-<date>.md` and `.json`. `--cpu-time` counts seconds of the process's own
CPU time, which other programs on the machine change little; then threads gain nothing.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.machine import about_machine, machine_name
from benchmarks.results import DIRECTORY, check_out, write_both
from benchmarks.tables import number, table
from dist_train import TrainedModel, load_model
from dist_train.errors import DataError
from dist_train.results.predict.command import open_network
from dist_train.results.predict.picture_files import PictureNetwork, list_files, predict_files
from dist_train.system.exit import Parser, run_guarded
from launch.arguments import number_from

Clock = Callable[[], float]
TOP = 5
FEWER = 10
"""One picture of so many is also predicted alone."""


def measure_predict(
    files: Sequence[str | DataError], network: PictureNetwork, clock: Clock = time.perf_counter
) -> float:
    """Return pictures a second of `dist-train predict`, without the start of the process."""
    start = clock()
    count = sum(not isinstance(found, DataError) for found in predict_files(files, network, TOP))
    return count / (clock() - start)


def measure_network(pictures: torch.Tensor, network: PictureNetwork, clock: Clock = time.perf_counter) -> float:
    """Return pictures a second of the network alone, in the same batches, for pictures in memory."""
    start = clock()
    for batch in torch.split(pictures, network.batch):
        output = network.compute(batch)
    assert isinstance(output, torch.Tensor)  # noqa: S101
    output.sum().item()  # waits for a GPU
    return len(pictures) / (clock() - start)


def measure_loop(files: Sequence[str], model: TrainedModel, clock: Clock = time.perf_counter) -> float:
    """Return pictures a second of a loop that gives each file to the model."""
    start = clock()
    for file in files:
        with torch.no_grad():
            model(file).softmax(dim=1).topk(TOP)
    return len(files) / (clock() - start)


def measure(run: Path, folder: Path, rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Measure in rounds, each with other files; return pictures a second of each way, by round."""
    files = [file for file in list_files([str(folder)]) if isinstance(file, str)]
    random.Random(0).shuffle(files)  # noqa: S311 (folders may hold pictures of different sizes)
    model, network = load_model(run), open_network(load_model(run))
    found: dict[str, list[float]] = {"predict": [], "network alone": [], "one at a time": []}
    for turn in range(-1, rounds):
        part = files[max(0, turn) :: rounds]
        few = part[: max(1, len(part) // FEWER)]
        pictures = torch.stack([network.read(file) for file in part])
        rates = (
            measure_predict(part, network, clock),
            measure_network(pictures, network, clock),
            measure_loop(few, model, clock),
        )
        if turn < 0:
            continue  # the first calls are slow
        for name, rate in zip(found, rates, strict=True):
            found[name].append(rate)
        print(f"round {turn + 1} of {rounds}: {', '.join(map(number, rates))} pictures/s", file=sys.stderr, flush=True)
    return found


def report(name: str, found: dict[str, list[float]]) -> str:
    """Return the rates and the ratios as a table."""
    cells = [number(statistics.median(rates)) for rates in found.values()]
    for other in ("network alone", "one at a time"):
        ratios = [one / two for one, two in zip(found["predict"], found[other], strict=True)]
        cells.append(f"{number(statistics.median(ratios))} ({number(min(ratios))} to {number(max(ratios))})")
    head = ["run", *(f"{way}, pictures/s" for way in found), "predict / network alone", "predict / one at a time"]
    return table(head, [[name, *cells]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the results."""
    parser = Parser(prog="python -m benchmarks.single.predictions", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--rounds", type=number_from(1), default=20)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--out", type=Path, default=DIRECTORY)
    options = parser.parse_args(arguments)
    check_out(options.out)
    found = measure(
        options.run, options.folder, options.rounds, time.process_time if options.cpu_time else time.perf_counter
    )
    machine = {
        **about_machine(),
        "threads": torch.get_num_threads(),
        "clock": "CPU time" if options.cpu_time else "time",
    }
    text = f"{report(options.run.name, found)}\n\n{', '.join(f'{name} {value}' for name, value in machine.items())}\n"
    print(text)
    name = f"predictions-{machine_name(machine)}-{datetime.now(UTC):%Y-%m-%d}"
    print(write_both(options.out, name, {"machine": machine, "run": options.run.name, "rates": found}, text))


if __name__ == "__main__":
    sys.exit(run_guarded(main))
