"""Commands that meet in one run directory, sweep or cache, some tenths of a second apart.

Whoever wins, the run ends as if it had been alone: a start is refused, or the run is done, and each step is there once.
"""

import random
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.torture import runs
from tests.torture.bench import Bench, finish
from tests.torture.cases import Case, Fault, judge

QUICK, USUAL = 1, 65
ROUNDS = 20
TRAIN = runs.train_command("run")
CLI = ("-m", "launch")
SWEEP: tuple[str, ...] = (*CLI, "sweep", "a.yaml", "optim.lr=0.1,0.2", "run.dir=run", "--nproc", "1")
EVALUATE = ("-m", "dist_train.evaluate", "run")
STOPPED = {0, 75}


DIGITS = """
data: {name: digits, global_batch: 16, limit_train: 64, cache: cache}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.01}
train: {max_steps: 2}
log: {tensorboard: false}
"""
"""Settings of runs that share a cache of decoded pictures."""
Racer = tuple[tuple[str, ...], set[int]]
# What starts at once, each with its exit codes, and whether the run in `run` has begun before.
RACES: dict[str, tuple[bool, list[Racer]]] = {
    "two starts": (False, 2 * [(TRAIN, {0, 2})]),
    "four starts": (False, 4 * [(TRAIN, {0, 2})]),
    "three resumes": (True, 3 * [(TRAIN, {0, 2})]),
    "two that start over": (True, 2 * [((*TRAIN, "run.resume=never"), {0, 2})]),
    "a resume and one that starts over": (True, [(TRAIN, {0, 2}), ((*TRAIN, "run.resume=never"), {0, 2})]),
    "status while it trains": (False, [(TRAIN, {0}), *9 * [((*CLI, "status", "run"), {0, 2})]]),
    "verify while it saves": (True, [(TRAIN, {0}), *2 * [((*CLI, "ckpt", "verify", "run"), {0})]]),
    "evaluate while it prunes": (True, [((*TRAIN, "checkpoint.keep_last=1"), {0}), *3 * [(EVALUATE, {0})]]),
    "prune while it resumes": (True, [(TRAIN, {0, 2}), *2 * [((*CLI, "ckpt", "prune", "run"), {0, 2})]]),
    "cancel while it starts": (True, [(TRAIN, STOPPED), ((*CLI, "cancel", "run"), {0, 2})]),
    "postmortem while it starts": (True, [(TRAIN, {0}), *3 * [((*CLI, "postmortem", "run"), {0, 1})]]),
    "one cache": (False, [(("-m", "dist_train", "digits.yaml", f"run.dir=run{number}"), {0}) for number in range(4)]),
    "one sweep twice": (False, 2 * [(SWEEP, {0, 2})]),
}


def cases(bench: Bench, seed: int) -> Iterator[Case]:  # noqa: ARG001
    """Yield each race, with other pauses in each round."""
    for number in range(ROUNDS):
        for what in RACES:
            yield Case(f"{what} {number}", partial(_race, what=what, draw=random.Random(f"{seed} {what} {number}")))  # noqa: S311


def _race(bench: Bench, what: str, draw: random.Random) -> Iterator[Fault]:
    has_begun, racers = RACES[what]
    with bench.folder() as folder:
        (folder / "a.yaml").write_text(runs.CONFIG, encoding="utf-8")
        (folder / "digits.yaml").write_text(DIGITS, encoding="utf-8")
        if has_begun:
            shutil.copytree(runs.failed_run(bench), folder / "run", symlinks=True)
        started = []
        for arguments, codes in racers:
            started.append((bench.start(*arguments, cwd=folder), codes))
            time.sleep(draw.choice([0, 0, 0.03, 0.1, 0.3]))
        outcomes = []
        for command, codes in started:
            outcomes.append(outcome := finish(command))
            yield from judge(outcome, codes)
        printed = "\n".join(outcome.tail for outcome in outcomes)
        if "sweep" not in what and "cache" not in what:
            yield from _check_run(bench, folder, printed)
        elif not any(outcome.code == 0 for outcome in outcomes):
            yield Fault("false claim", f"none of the commands succeeds\n{printed}")


def _check_run(bench: Bench, folder: Path, printed: str) -> Iterator[Fault]:
    """The same command ends the run, if the race has not."""
    last = bench.run(*TRAIN, cwd=folder)
    yield from judge(last, {0})
    if last.code == 0:
        yield from runs.check_done(folder / "run", runs.reference(bench), f"{printed}\n{last.tail}")
