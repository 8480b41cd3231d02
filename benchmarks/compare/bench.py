"""Compare this project with other frameworks that train the same workloads, in one session.

    python -m benchmarks.compare.bench [--quick] [--workloads mnist tutorial] [--measures throughput start] [--rounds 5]
    python -m benchmarks.compare.bench --before CHECKOUT [--no-peers]
    python -m benchmarks.compare.bench --update-readme

Every program is measured once in each round, so that a slow machine slows all of them; ratios are taken by round. Needs
MNIST and the batches of CIFAR-10 in $DIST_TRAIN_DATA, in torchvision's layout. The other frameworks are installed into
an environment of their own, `.venv-bench`. Writes `benchmarks/results/<machine>-<date>.{json,md}`, after Ctrl-C with
what was measured before. A session that is not a full one on a CPU has `-quick`, `-cuda` or `-part` in these names, and
none overwrites another.

`--before` also runs an earlier version of dist-train, in its own checkout, right after each of our runs, and adds a
table of this version over that one. With `--no-peers` nothing else is measured.

`--update-readme` puts the newest full results into the tables of `benchmarks/README.md`.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.compare.before import pair_tasks
from benchmarks.compare.checkout import open_checkout
from benchmarks.compare.measures import checkpoints, evaluation, loading, loop, start, throughput
from benchmarks.compare.peers_environment import peers_python
from benchmarks.compare.report import readme_part, report, with_part
from benchmarks.compare.results import Results, newest, read, write
from benchmarks.compare.session import Session, train
from benchmarks.compare.workloads import MNIST, TUTORIAL, WORKLOADS
from benchmarks.machine import about_machine, commit_of, gpus
from benchmarks.processes import ROOT
from benchmarks.results import DIRECTORY, check_out
from benchmarks.rounds import NO_TIME, Task, run_rounds
from dist_train.errors import DataError, UserError
from dist_train.system.exit import Parser, run_guarded
from launch.arguments import number_from

MEASURES = ("imports", "start", "checkpoint", "restart", "data", "evaluation", "loop", "throughput")
RANKS = (1, 2)
QUICK_SECONDS = 270
README = ROOT / "benchmarks" / "README.md"


def main() -> int:
    """Measure, or update the README; returns the exit code, 1 if a program failed."""
    options = _parse()
    if options.update_readme:
        update_readme()
        return 0
    _check_data()
    check_out(options.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the measured processes too
    results = measure(options)
    text = report(results)
    print(f"\n{text}")
    path = write(results, text, options.out)
    print(f"results: {path} and {path.with_suffix('.md').name}")
    return 1 if any(each.reason != NO_TIME for each in results.missing) else 0


def measure(options: argparse.Namespace) -> Results:
    """Run the session that the options ask for."""
    begun = time.monotonic()
    about = {**about_machine(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    default = 1 if options.quick else 3
    rounds, tries = options.rounds or default, options.tries or default
    names = _check_gpus(options)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        python = peers_python() if options.peers else Path(sys.executable)
        ready = time.monotonic()
        sessions = list(_sessions(Path(directory), python, options))
        tasks = list(_tasks(sessions, options))
        if not tasks:
            raise UserError(
                "there is nothing to measure: none of --names trains these --workloads on so many --ranks, or --quick "
                "or --no-peers leaves out these --measures"
            )
        for session in sessions:
            _fill_cache(session)
        deadline = begun + QUICK_SECONDS if options.quick else None
        measured = run_rounds(tasks, rounds, tries, deadline)
    about |= {"device": ", ".join(names) or options.device, "rounds": rounds, "quick": options.quick}
    about["peers"] = options.peers
    about["part"] = _leaves_out(options) or measured.is_cut
    about["seconds"] = round(time.monotonic() - ready)
    if options.before:
        about["before"] = commit_of(options.before)
    workers = {
        f"{workload}, {ranks} rank(s), {peer}": count for (workload, ranks, peer), count in sessions[0].workers.items()
    }
    return Results({**about, "workers": workers}, measured.records, measured.missing)


def update_readme(readme: Path = README, directory: Path = DIRECTORY) -> None:
    """Put the newest full results into the README's tables.

    Raises:
        UserError: there are no results, or the README has no marks.
    """
    path = newest(directory)
    if path is None:
        raise UserError(
            f"{directory}: holds no results of a full session; make them with python -m benchmarks.compare.bench"
        )
    try:
        readme.write_text(with_part(readme.read_text(encoding="utf-8"), part_of(path)), encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{readme}: has {error} around the tables") from error


def part_of(path: Path) -> str:
    """The part of the README that is generated from the results in a file."""
    return readme_part(read(path), f"results/{path.stem}.md")


def _sessions(directory: Path, python: Path, options: argparse.Namespace) -> Iterator[Session]:
    """The session of this version, and that of the earlier one."""
    yield Session(directory, options.device, options.quick, python)
    if options.before:
        own = directory / "before"
        own.mkdir()
        yield Session(own, options.device, options.quick, python, open_checkout(options.before))


def _tasks(sessions: Sequence[Session], options: argparse.Namespace) -> Iterator[Task]:
    """All tasks, with those of the earlier version right after ours."""
    ours, *before = (list(_tasks_of(session, options)) for session in sessions)
    yield from pair_tasks(ours, before[0], only_ours=not options.peers) if before else ours


def _tasks_of(session: Session, options: argparse.Namespace) -> Iterator[Task]:
    workloads = [WORKLOADS[name] for name in options.workloads]
    tasks = {
        "imports": start.import_tasks(session),
        "start": start.tasks(session),
        "checkpoint": checkpoints.wait_tasks(session),
        "restart": checkpoints.restart_tasks(session),
        "data": loading.tasks(session),
        "evaluation": evaluation.tasks(session, workloads),
        "loop": loop.tasks(session, workloads),
        "throughput": throughput.tasks(session, workloads, options.ranks, options.names),
    }
    for name in MEASURES:
        yield from tasks[name] if name in options.measures else ()


def _fill_cache(session: Session) -> None:
    """Train a step on each data set: the first run decodes it, which is not part of a start."""
    for workload in (MNIST, TUTORIAL):
        train(session, workload, 1, "train.max_steps=1")


def _leaves_out(options: argparse.Namespace) -> bool:
    """Whether the options leave out something that a session of this kind measures."""
    asked = [set(options.workloads), set(options.measures), set(options.ranks)]
    return asked != [set(WORKLOADS), set(MEASURES), set(RANKS)] or options.names is not None or not options.peers


def _check_data() -> None:
    root = Path(os.environ.get("DIST_TRAIN_DATA", ""))
    wanted = [root / "MNIST" / "raw", root / "cifar-10-batches-py"]
    if "DIST_TRAIN_DATA" not in os.environ:
        raise DataError("$DIST_TRAIN_DATA is not set; set it to the directory of MNIST/raw and cifar-10-batches-py")
    if missing := [str(path) for path in wanted if not path.is_dir()]:
        raise DataError(f"$DIST_TRAIN_DATA is {root}, but there is no {' and no '.join(missing)}")


def _check_gpus(options: argparse.Namespace) -> list[str]:
    """The names of the GPUs to measure, none on a CPU; raises UserError if there are too few."""
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
    for name, every in (("workload", list(WORKLOADS)), ("measure", list(MEASURES))):
        parser.add_argument(
            f"--{name}s", nargs="+", choices=every, default=every, metavar=name.upper(), help=" ".join(every)
        )
    parser.add_argument("--ranks", nargs="+", type=int, choices=RANKS, default=list(RANKS), help="of the throughput")
    parser.add_argument(
        "--names",
        nargs="+",
        choices=throughput.NAMES,
        metavar="NAME",
        help="of the throughput, only these programs, by their names in the report",
    )
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier version to compare with")
    parser.add_argument(
        "--no-peers",
        dest="peers",
        action="store_false",
        help="with --before: only the two versions; needs no other frameworks",
    )
    parser.add_argument("--rounds", type=number_from(1), metavar="N", help="default: 3, and 1 with --quick")
    parser.add_argument(
        "--tries",
        type=number_from(1),
        metavar="N",
        help="measure up to N times in a round if other processes disturb it; default: 3, and 1 with --quick",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=DIRECTORY, help="directory of the results; default: %(default)s")
    parser.add_argument(
        "--update-readme", action="store_true", help="write the newest full results into benchmarks/README.md"
    )
    options = parser.parse_args()
    if not (options.peers or options.before):
        parser.error("--no-peers needs --before CHECKOUT")
    return options


if __name__ == "__main__":
    sys.exit(run_guarded(main))
