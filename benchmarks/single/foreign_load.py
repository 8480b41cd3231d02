"""How fast a small training is beside other busy programs, by its number of threads.

    python -m benchmarks.single.foreign_load [--busy 0 1 2] [--rounds 3]

Prints a table in Markdown: samples per second with one thread, with two, and with the number that `auto` chooses, and
the last as a part of the best of the first two.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

THREADS = ("1", "2", "auto")
STEPS = 300
COMMAND = (sys.executable, "-m", "launch", "train")
SETTINGS = (
    *("configs/digits.yaml", "train.epochs=1000", f"train.max_steps={STEPS}", "eval.every_epochs=0"),
    "log.tensorboard=false",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="numbers of other busy programs")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns; their median counts")
    options = parser.parse_args(arguments)
    print("| other busy programs | 1 thread | 2 threads | auto | auto of the best |\n|---|---|---|---|---|")
    for number in options.busy:
        with busy_programs(number):
            rounds = [[train(threads) for threads in THREADS] for _ in range(options.rounds)]
        print(format_row(number, [median(column) for column in zip(*rounds, strict=True)]), flush=True)


def format_row(number: int, rates: Sequence[float]) -> str:
    """Return a row of the table; `rates` in samples per second, in the order of THREADS."""
    cells = [str(number), *(f"{rate:,.0f}" for rate in rates), f"{rates[2] / max(rates[:2]):.2f}"]
    return f"| {' | '.join(cells)} |"


@contextmanager
def busy_programs(number: int) -> Iterator[None]:
    """Run programs that each use a core, until the block ends."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def train(threads: str) -> float:
    """Train, and return samples per second."""
    environ = {name: value for name, value in os.environ.items() if name not in ("DIST_TRAIN_CORES", "OMP_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "launch",
                "train",
                *SETTINGS,
                f"distributed.threads={threads}",
                f"run.dir={directory}/run",
            ],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
    (rate,) = re.findall(r"([\d,]+) samples/s while training", done.stdout)
    return float(rate.replace(",", ""))


if __name__ == "__main__":
    main()
