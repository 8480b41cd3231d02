"""Seconds from a command to the end of its first optimizer step, on two CPU ranks; and what our start imports.

Ours is the `time` of the first line in `metrics.jsonl`, here with a line a step. The network is that of the MNIST
example, and our data are in the cache.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.compare.session import OurRun, Session, merge_settings, own_settings, run_and_read, torchrun, train
from benchmarks.compare.workloads import MNIST as WORKLOAD
from benchmarks.processes import ROOT, run
from benchmarks.rounds import Case, Reading, Task

RANKS = 2
ONE_STEP = ("train.max_steps=1", "log.every_steps=1", "distributed.backend=gloo")
DIST_TRAIN = "ours, dist-train train"
TORCHRUN = "ours, torchrun"
BARE = "bare script, torchrun"
AGENT = (sys.executable, "-m", "launch", "train")
"""The start of a command of `dist-train train`."""
SHOWN = (
    *("torch", "torch._dynamo", "torchvision", "numpy", "sympy", "sklearn", "tensorboard"),
    *("pydantic", "yaml", "tqdm", "dist_train"),
)
"""Packages whose imports are listed, each without those in it that are listed too."""
PACKAGES = ("all", *SHOWN, "others")


def case(name: str) -> Case:
    """The case of this measure."""
    return Case("start", WORKLOAD.name, RANKS, name, "s")


def tasks(session: Session) -> Iterator[Task]:
    """A task for each program that starts two ranks."""
    measures: dict[str, Callable[[], Reading]] = {
        BARE: partial(_bare, session),
        "plain, torchrun": partial(_peer, session, "plain", torchrun(sys.executable, RANKS)),
        TORCHRUN: partial(measure_ours, session),
        DIST_TRAIN: partial(measure_ours, session, AGENT, (f"--nproc={RANKS}",)),
        "accelerate, torchrun": partial(_peer, session, "accelerate", torchrun(session.peers_python, RANKS)),
        "lightning": partial(_peer, session, "lightning", [str(session.peers_python)], f"--ranks={RANKS}"),
    }
    yield from (Task.of(case(name), measure) for name, measure in measures.items())


def _bare(session: Session) -> Reading:
    readings = session.path("bare")
    module = "benchmarks.compare.programs.bare_start"
    outcome, lines = run_and_read([*torchrun(sys.executable, RANKS), "-m", module, str(readings)], readings, 1)
    return Reading(lines[0]["time"] - outcome.started, outcome)


def _peer(session: Session, module: str, begin: list[str], *more: str) -> Reading:
    readings = session.path("readings")
    asked = [f"benchmarks.compare.peers.{module}", WORKLOAD.name, "--steps", "1", "--readings", str(readings), *more]
    outcome, lines = run_and_read([*begin, "-m", *asked], readings, last=1)
    return Reading(lines[0]["time"] - outcome.started, outcome)


def measure_ours(
    session: Session, launcher: Sequence[str] = (), flags: Sequence[str] = (), ranks: int = RANKS
) -> Reading:
    """Our start by this launcher; torchrun by default."""
    return first_step(train(session, WORKLOAD, ranks, *ONE_STEP, launcher=launcher, flags=flags))


def first_step(ours: OurRun, step: int = 1) -> Reading:
    """Seconds from the command to the end of this step, the first of the run."""
    times = [line["time"] for line in ours.readings() if line["step"] == step]
    return Reading(times[0] - ours.outcome.started, ours.outcome)


def import_case(package: str) -> Case:
    """The case of one package's imports."""
    return Case("imports", WORKLOAD.name, 1, package, "s")


def import_tasks(session: Session) -> Iterator[Task]:
    """Seconds of import in a run of one process on cached data, by package."""
    yield Task(tuple(import_case(package) for package in PACKAGES), partial(_imports, session))


def _imports(session: Session) -> list[Reading]:
    command = [sys.executable, "-X", "importtime", "-m", "dist_train", str(ROOT / "configs" / WORKLOAD.recipe)]
    settings = merge_settings(own_settings(session, WORKLOAD), [*ONE_STEP, f"run.dir={session.path('imports')}"])
    outcome = run([*command, *settings])
    seconds = by_package(outcome.output)
    return [Reading(value, outcome) for value in (sum(seconds.values()), *(seconds.get(p, 0.0) for p in PACKAGES[1:]))]


def by_package(importtime: str) -> dict[str, float]:
    """Seconds of import by package of `SHOWN`, the rest as `others`, from the output of `python -X importtime`."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for own, module in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", importtime, re.MULTILINE):
        found = [package for package in SHOWN if f"{module}.".startswith(f"{package}.")]
        seconds[max(found, key=len, default="others")] += int(own) / 1e6
    return dict(seconds)
