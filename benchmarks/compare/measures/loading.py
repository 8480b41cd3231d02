"""Images a second: those that reach a step, ours and torchvision's, and whole runs with crop and flip."""

import json
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.compare.measures.throughput import measure_ours
from benchmarks.compare.session import Session
from benchmarks.compare.workloads import TUTORIAL
from benchmarks.processes import run
from benchmarks.rounds import Case, Reading, Task

OURS, FILES = "memory: ours", "files: ours, 2 workers"
THEIRS = ("memory: torchvision, 0 workers", "memory: torchvision, 2 workers")
FOLDER = "files: ImageFolder, 2 workers"
NAMES = (OURS, *THEIRS, FILES, FOLDER)
AUGMENTED = ("train.precision=fp32", "data.augment.crop_padding=4", "data.augment.flip=true")
LOADERS = {"ours, in memory": "data.loader=in_memory", "ours, workers": "data.loader=workers"}


def case(name: str) -> Case:
    """The case of the data path alone."""
    return Case("data", "crop, flip, normalise", 1, name, "images/s")


def run_case(name: str) -> Case:
    """The case of a whole run."""
    return Case("data", "training with crop and flip", 1, name, "images/s")


def tasks(session: Session) -> Iterator[Task]:
    """One task for the data path alone, and whole runs of the tutorial net with each of our loaders."""
    yield Task(tuple(case(name) for name in NAMES), partial(_measure, session))
    for name, loader in () if session.quick else LOADERS.items():
        yield Task.of(run_case(name), partial(measure_ours, session, TUTORIAL, 1, name, (*AUGMENTED, loader)))


def _measure(session: Session) -> list[Reading]:
    answer = session.path("data")
    module = "benchmarks.compare.programs.data_path"
    outcome = run([sys.executable, "-m", module, "--rounds", "1", "--json", str(answer)])
    rates = json.loads(answer.read_text(encoding="utf-8"))["images_per_second"]
    return [Reading(rates[name][0], outcome) for name in NAMES]
