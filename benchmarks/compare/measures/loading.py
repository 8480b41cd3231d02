"""Images a second that reach a step, from memory and from files: ours and torchvision's."""

import json
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.compare.session import Session
from benchmarks.processes import run
from benchmarks.rounds import Case, Reading, Task

OURS, FILES = "memory: ours", "files: ours, 2 workers"
THEIRS = ("memory: torchvision, 0 workers", "memory: torchvision, 2 workers")
FOLDER = "files: ImageFolder, 2 workers"
NAMES = (OURS, *THEIRS, FILES, FOLDER)


def case(name: str) -> Case:
    """The case of this measure."""
    return Case("data", "crop, flip, normalise", 1, name, "images/s")


def tasks(session: Session) -> Iterator[Task]:
    """One task that measures all cases."""
    yield Task(tuple(case(name) for name in NAMES), partial(_measure, session))


def _measure(session: Session) -> list[Reading]:
    answer = session.path("data")
    module = "benchmarks.compare.programs.data_path"
    outcome = run([sys.executable, "-m", module, "--rounds", "1", "--json", str(answer)])
    rates = json.loads(answer.read_text(encoding="utf-8"))["images_per_second"]
    return [Reading(rates[name][0], outcome) for name in NAMES]
