"""However and whenever a rank dies, the run ends soon, with one screen that says why and what to do."""

import itertools
import json
import re
import time
from pathlib import Path

import pytest

from tests.conftest import Python

pytestmark = pytest.mark.slow

SMALL = """
data: {name: synthetic, num_train: 64, num_test: 16, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.05}
train: {max_steps: 4}
checkpoint: {every_steps: 2}
log: {tensorboard: false}
distributed: {backend: gloo, threads: 1}
"""
PHASES = ("start of a rank", "joining", "opening", "first step", "evaluation", "save", "end", "exit")
EXITS = ("os._exit(0)", "os._exit(1)", "os._exit(77)", "sys.exit(0)", "sys.exit(3)", "exception")
WAYS = ("SIGKILL", "SIGSEGV", "SIGABRT", *EXITS)
RANKS = (0, 1, -1)
ALL = [*itertools.product(PHASES, WAYS, RANKS)]
SOME = ALL[::13]  # with each phase, each way and each choice of ranks, for 13 divides none of their numbers
SECONDS = 30


def die(directory: Path, python: Python, phase: str, way: str, rank: int) -> None:
    (directory / "small.yaml").write_text(SMALL)
    command = ["tests/programs/dies.py", str(directory / "small.yaml"), "--nproc", "2", f"run.dir={directory}/run"]
    rank = 0 if phase in ("evaluation", "save") else rank  # of so few images only rank 0 has some to evaluate
    death = {"phase": phase, "way": way, "rank": rank}
    began = time.monotonic()
    done = python(*command, env={"DIST_TRAIN_TEST_DEATH": json.dumps(death)}, timeout=90)
    assert time.monotonic() - began < SECONDS
    status = directory / "run" / "status.json"
    if status.exists() and json.loads(status.read_text())["state"] == "done":
        assert (done.returncode, "after the run was done" in done.stderr) == (0, True), done.stderr
        return
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("---- run: the run failed ----") == 1, done.stderr
    if way.startswith("SIG"):
        reason = {"SIGSEGV": "Segmentation fault", "SIGABRT": "Aborted"}.get(way, way)
        assert re.search(rf"^cause  .*({way}|{reason})", done.stderr, re.MULTILINE) or rank == -1, done.stderr
    for row in ("first failed   rank ", "cause          ", "next           dist-train train "):
        assert f"\n{row}" in done.stderr, done.stderr


@pytest.mark.parametrize(("phase", "way", "rank"), SOME)
def test_a_death_ends_in_one_screen(tmp_path: Path, python: Python, phase: str, way: str, rank: int) -> None:
    die(tmp_path, python, phase, way, rank)


@pytest.mark.long
@pytest.mark.parametrize(("phase", "way", "rank"), [each for each in ALL if each not in SOME])
def test_every_other_death_ends_in_one_screen(tmp_path: Path, python: Python, phase: str, way: str, rank: int) -> None:
    die(tmp_path, python, phase, way, rank)
