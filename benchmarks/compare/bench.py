"""Measure this project against the frameworks that train the same workload, side by side in one session.

    python -m benchmarks.compare.bench [--quick] [--workloads mnist tutorial] [--measures throughput start] [--rounds 5]
    python -m benchmarks.compare.bench --readme

Everybody takes a turn in every round, so that whatever slows the machine slows all of them; ratios are taken by round.
Needs MNIST and the batches of CIFAR-10 in $DIST_TRAIN_DATA, as torchvision lays them out. The other frameworks are
installed into an environment of their own, `.venv-bench`. Writes `benchmarks/results/<machine>-<date>.{json,md}`, of
what was measured before if Ctrl-C ends it; a session that is not a full one on a CPU has `-quick`, `-cuda` or `-part`
in these names, and none overwrites another. `--readme` puts the newest full session there into the README's table.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.compare.measures import checkpoints, evaluation, loading, loop, start, throughput
from benchmarks.compare.peers_environment import peers_python
from benchmarks.compare.report import readme_part, report, with_part
from benchmarks.compare.session import Session
from benchmarks.compare.workloads import WORKLOADS
from benchmarks.processes import ROOT
from benchmarks.results import DIRECTORY, Results, about_machine, check_out, gpus, newest, read, write
from benchmarks.rounds import NO_TIME, Task, run_rounds
from dist_train.errors import DataError, UserError
from dist_train.system.exit import Parser, run_guarded
from launch.arguments import number_from

MEASURES = ("imports", "start", "checkpoint", "restart", "data", "evaluation", "loop", "throughput")
"""In this order: the first run on some data may have to fill the cache, which no start should be measured with."""
RANKS = (1, 2)
QUICK_SECONDS = 270
README = ROOT / "README.md"


def main() -> int:
    """Measure, or write the README's table; returns the exit code."""
    options = _parse()
    if options.readme:
        write_readme()
        return 0
    _check_data()
    check_out(options.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is being measured ends too
    results = measure(options)
    text = report(results)
    print(f"\n{text}")
    path = write(results, text, options.out)
    print(f"results: {path} and {path.with_suffix('.md').name}")
    return 1 if any(each.reason != NO_TIME for each in results.missing) else 0


def measure(options: argparse.Namespace) -> Results:
    """The session that the options ask for."""
    begun = time.monotonic()
    about = {**about_machine(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    usual = 1 if options.quick else 3
    rounds, tries = options.rounds or usual, options.tries or usual
    names = _check_gpus(options)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        python = peers_python()
        ready = time.monotonic()
        session = Session(Path(directory), options.device, options.quick, python)
        tasks = list(_tasks(session, options))
        if not tasks:
            raise UserError(
                "there is nothing to measure: nobody of --who trains these --workloads on so many --ranks, or --quick "
                "leaves these --measures out"
            )
        deadline = begun + QUICK_SECONDS if options.quick else None
        turns = run_rounds(tasks, rounds, tries, deadline)
    about |= {"device": ", ".join(names) or options.device, "rounds": rounds, "quick": options.quick}
    about["part"] = _leaves_out(options) or turns.is_cut
    about["seconds"] = round(time.monotonic() - ready)
    workers = {
        f"{workload}, {ranks} rank(s), {peer}": count for (workload, ranks, peer), count in session.workers.items()
    }
    return Results({**about, "workers": workers}, turns.records, turns.missing)


def write_readme(readme: Path = README, directory: Path = DIRECTORY) -> None:
    """Put the newest full session into the README's table.

    Raises:
        UserError: there is no session, or the README has no marks.
    """
    path = newest(directory)
    if path is None:
        raise UserError(
            f"{directory}: holds no results of a full session; make them with python -m benchmarks.compare.bench"
        )
    try:
        readme.write_text(with_part(readme.read_text(encoding="utf-8"), part_of(path)), encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{readme}: has {error} for the table to stand between") from error


def part_of(path: Path) -> str:
    """What the README says of the results in a file."""
    return readme_part(read(path), f"benchmarks/results/{path.stem}.md")


def _tasks(session: Session, options: argparse.Namespace) -> Iterator[Task]:
    workloads = [WORKLOADS[name] for name in options.workloads]
    chosen = {
        "imports": start.import_tasks(session),
        "start": start.tasks(session),
        "checkpoint": checkpoints.wait_tasks(session),
        "restart": checkpoints.restart_tasks(session),
        "data": loading.tasks(session),
        "evaluation": evaluation.tasks(session, workloads),
        "loop": loop.tasks(session, workloads),
        "throughput": throughput.tasks(session, workloads, options.ranks, options.who),
    }
    for name in MEASURES:
        yield from chosen[name] if name in options.measures else ()


def _leaves_out(options: argparse.Namespace) -> bool:
    """Whether something is not asked for that a session of this kind would measure."""
    asked = [set(options.workloads), set(options.measures), set(options.ranks)]
    return asked != [set(WORKLOADS), set(MEASURES), set(RANKS)] or options.who is not None


def _check_data() -> None:
    root = Path(os.environ.get("DIST_TRAIN_DATA", ""))
    wanted = [root / "MNIST" / "raw", root / "cifar-10-batches-py"]
    if "DIST_TRAIN_DATA" not in os.environ:
        raise DataError("$DIST_TRAIN_DATA is not set; set it to the directory of MNIST/raw and cifar-10-batches-py")
    if missing := [str(path) for path in wanted if not path.is_dir()]:
        raise DataError(f"$DIST_TRAIN_DATA is {root}, but there is no {' and no '.join(missing)}")


def _check_gpus(options: argparse.Namespace) -> list[str]:
    """The names of the GPUs that are measured, none on a CPU; raises UserError where there are too few."""
    if options.device == "cpu":
        return []
    names = gpus()
    if len(names) < max(options.ranks):
        raise UserError(
            f"--device cuda: there are {len(names)} GPUs for --ranks {max(options.ranks)}; ask for fewer ranks"
        )
    return names[: max(options.ranks)]


def _parse() -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.compare.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one round of short windows, in less than five minutes")
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        default=list(WORKLOADS),
        metavar="WORKLOAD",
        help=" ".join(WORKLOADS),
    )
    parser.add_argument(
        "--measures", nargs="+", choices=MEASURES, default=list(MEASURES), metavar="MEASURE", help=" ".join(MEASURES)
    )
    parser.add_argument("--ranks", nargs="+", type=int, choices=RANKS, default=list(RANKS), help="of the throughput")
    parser.add_argument(
        "--who",
        nargs="+",
        choices=throughput.NAMES,
        metavar="NAME",
        help="of the throughput, only these, by their names in the report",
    )
    parser.add_argument("--rounds", type=number_from(1), metavar="N", help="default: 3, and 1 with --quick")
    parser.add_argument(
        "--tries",
        type=number_from(1),
        metavar="N",
        help="how often to try for an undisturbed reading in a round; default: 3, and 1 with --quick",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=DIRECTORY, help="directory of the results; default: %(default)s")
    parser.add_argument("--readme", action="store_true", help="write the README's table from the newest results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_guarded(main))
