"""Measure this project against the frameworks that train the same work, side by side in one session.

    python -m benchmarks.bench [--quick] [--works mnist tutorial] [--measures throughput] [--rounds 5]

Everybody takes a turn in every round, so that whatever slows the machine slows all of them; ratios are taken by round.
Needs MNIST and the batches of CIFAR-10 in $DIST_TRAIN_DATA, as torchvision lays them out. The other frameworks are
installed into an environment of their own, `.venv-bench`. Writes `benchmarks/results/<machine>-<date>.{json,md}`.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import throughput
from benchmarks.peers_environment import peers_python
from benchmarks.report import medians
from benchmarks.rounds import take_turns
from benchmarks.session import Session
from benchmarks.works import WORKS
from dist_train.entry import Parser, run_guarded
from dist_train.errors import DataError

QUICK_SECONDS = 280


def main() -> int:
    options = _parse()
    _check_data()
    begun = time.monotonic()
    works = [WORKS[name] for name in options.works]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        session = Session(Path(directory), options.device, options.quick, peers_python())
        deadline = begun + QUICK_SECONDS if options.quick else None
        throughput.find_workers(session, works, options.ranks)
        tasks = list(throughput.tasks(session, works, options.ranks))
        records, missing = take_turns(tasks, options.rounds or (1 if options.quick else 5), deadline=deadline)
    print(medians(records))
    for each in missing:
        print(f"missing: {each.case}: {each.reason}")
    return 1 if missing else 0


def _check_data() -> None:
    root = Path(os.environ.get("DIST_TRAIN_DATA", ""))
    wanted = [root / "MNIST" / "raw", root / "cifar-10-batches-py"]
    if "DIST_TRAIN_DATA" not in os.environ:
        raise DataError("$DIST_TRAIN_DATA is not set; the directory that holds MNIST/raw and cifar-10-batches-py")
    if missing := [str(path) for path in wanted if not path.is_dir()]:
        raise DataError(f"$DIST_TRAIN_DATA is {root}, but there is no {' and no '.join(missing)}")


def _parse() -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of short windows, in less than five minutes")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK")
    parser.add_argument("--ranks", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    parser.add_argument("--rounds", type=int, help="default: 5, and 1 with --quick")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_guarded(main))
