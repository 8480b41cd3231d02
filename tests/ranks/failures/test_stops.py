"""Ranks that are stopped or fail at chosen moments: what they leave and print, and how the run resumes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.checkpoint.serialization import list_not_finite, load
from dist_train.checkpoint.store import Store
from dist_train.diagnostics.verdict import read_verdict
from dist_train.monitoring import ledger, ledger_comparison
from dist_train.monitoring.metrics import read_lines
from dist_train.system.stop_signals import PREEMPTED
from tests.conftest import Python, Ranks

pytestmark = pytest.mark.slow

SMALL = """
data: {name: synthetic, num_train: 1200, num_test: 1100, global_batch: 150, validation: 0.5}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.05, momentum: 0.9}
train: {max_steps: 8}
checkpoint: {every_steps: 3}
eval: {every_epochs: 1}
log: {every_steps: 1, tensorboard: false, weights_every_steps: 1}
distributed: {backend: gloo, threads: 1}
"""
STEPS = 8  # 4 an epoch; an evaluation after the first, of 3 batches, and at the end one of 3 and one of 5
Done = subprocess.CompletedProcess[str]


class Runs:
    """Runs in one directory, by the agent on several ranks or as one process."""

    def __init__(self, directory: Path, python: Python) -> None:
        self.directory, self.python = directory, python
        (directory / "small.yaml").write_text(SMALL)

    def command(self, name: str, *overrides: str) -> list[str]:
        return ["tests/programs/troubled.py", str(self.directory / "small.yaml"), f"run.dir={self[name]}", *overrides]

    def start(self, ranks: int, name: str, *overrides: str, **trouble: Any) -> Done:
        nproc = ["--nproc", str(ranks)] if ranks > 1 else []
        return self.python(*self.command(name, *overrides), *nproc, env=variables(trouble), timeout=60)

    def __getitem__(self, name: str) -> Path:
        return self.directory / name


def variables(trouble: dict[str, Any]) -> dict[str, str]:
    about = {"step": 0, "rank": -1, "signals": [], **trouble}
    return {"DIST_TRAIN_TEST_TROUBLE": json.dumps(about)} if trouble else {}


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())  # type: ignore[no-any-return]


def state(run: Path) -> tuple[str, bool, int]:
    found = status(run)
    return found["state"], found["resumable"], found["step"]


def timeless(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics without what is a matter of time."""
    lines = read_lines(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in ("time", "samples_per_second")} for line in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load(run / "checkpoints" / "latest").files["model.pt"]


def assert_same(run: Path, whole: Path) -> None:
    """One ended as the other, bit for bit."""
    assert ledger_comparison.compare(
        ledger.read(run / "ledger.jsonl"), ledger.read(whole / "ledger.jsonl")
    ) == ledger_comparison.Comparison(STEPS, None)
    assert timeless(run) == timeless(whole)
    assert (run / "checkpoints" / "best").readlink() == (whole / "checkpoints" / "best").readlink()
    found, wanted = weights(run), weights(whole)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, python: Python) -> Runs:
    return Runs(tmp_path_factory.mktemp("stops"), python)


@pytest.fixture(scope="module")
def whole(runs: Runs) -> Callable[[int], Path]:
    """Undisturbed runs, by their number of ranks."""

    def trained(ranks: int) -> Path:
        name = f"whole-{ranks}"
        if not runs[name].exists():
            done = runs.start(ranks, name)
            assert done.returncode == 0, done.stdout + done.stderr
        return runs[name]

    return trained


# Each start of the run is stopped: where, by which signals, of which of two ranks, and after which step.
STOPS: list[tuple[dict[str, Any], int]] = [
    ({"at": "data", "step": 0, "rank": 1, "signals": ["SIGTERM"]}, 1),
    ({"at": "data of an evaluation", "rank": 1, "signals": ["SIGUSR2"]}, 4),
    ({"at": "evaluation", "step": 5, "rank": 0, "signals": ["SIGTERM"]}, 8),
]
OF_TWO: list[tuple[dict[str, Any], int]] = [
    # The ranks learn it with the gradients of the next step.
    ({"at": "step", "step": 1, "rank": 1, "signals": ["SIGUSR1"]}, 3),
]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_stopped_at_every_moment_ends_as_an_undisturbed_one(
    runs: Runs, whole: Callable[[int], Path], ranks: int
) -> None:
    name = f"stopped-{ranks}"
    for trouble, step in [*STOPS[:1], *(OF_TWO if ranks > 1 else []), *STOPS[1:]]:
        done = runs.start(ranks, name, **{**trouble, "rank": trouble["rank"] % ranks})
        assert done.returncode == PREEMPTED, (trouble, done.stdout, done.stderr)
        assert state(runs[name]) == ("preempted", True, step), trouble
        assert not (runs[name] / "diagnostics" / "verdict.json").exists()
        assert done.stderr == ""
    done = runs.start(ranks, name)
    assert done.returncode == 0, done.stderr
    assert_same(runs[name], whole(ranks))
    done = runs.start(ranks, name)
    assert "nothing left to do" in done.stdout
    assert timeless(runs[name]) == timeless(whole(ranks))


def test_a_stop_does_not_wait_for_a_worker_of_the_loader(runs: Runs, whole: Callable[[int], Path]) -> None:
    settings = ("data.loader=workers", "data.workers=1")
    done = runs.start(1, "worker", *settings, at="worker", step=2, signals=["SIGTERM"])
    assert done.returncode == PREEMPTED, done.stdout + done.stderr
    assert state(runs["worker"]) == ("preempted", True, 2)
    done = runs.start(1, "worker", *settings)
    assert done.returncode == 0, done.stderr
    assert_same(runs["worker"], whole(1))


def test_a_time_limit_includes_restarts_in_place(runs: Runs) -> None:
    trouble = {"at": "data after a restart", "step": 1, "rank": 1}
    done = runs.start(2, "limited", "--max-restarts", "1", "run.time_limit_minutes=0.12", **trouble)
    assert done.returncode == PREEMPTED, done.stdout + done.stderr
    assert "restart 1 of 1" in done.stderr
    assert state(runs["limited"]) == ("preempted", True, 2)
    assert status(runs["limited"])["restarts"] == 1


def test_a_rank_that_waits_to_join_its_peers_can_be_stopped(runs: Runs) -> None:
    done = runs.start(2, "joining", at="joining", rank=0, signals=["SIGTERM"])
    assert done.returncode == PREEMPTED, done.stdout + done.stderr
    assert done.stderr == "stopped by SIGTERM before the first step; the same command resumes the run\n"
    assert not runs["joining"].exists()


@pytest.mark.parametrize(
    ("launcher", "code"), [("agent", PREEMPTED), pytest.param("torchrun", 1, marks=pytest.mark.long)]
)
def test_a_rank_that_compiles_can_be_stopped(runs: Runs, torchrun: Ranks, launcher: str, code: int) -> None:
    name, trouble = f"compiling-{launcher}", {"at": "compiling", "rank": 1, "signals": ["SIGUSR1"]}
    if launcher == "agent":
        done = runs.start(2, name, **trouble)
    else:
        done = torchrun(2, *runs.command(name), env=variables(trouble), timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert state(runs[name]) == ("preempted", True, 0)
    assert not (runs[name] / "diagnostics" / "verdict.json").exists()


def test_a_start_that_is_stopped_while_it_opens_its_files_is_not_said_to_run(runs: Runs) -> None:
    assert runs.start(1, "opening", at="step", step=2, signals=["SIGTERM"]).returncode == PREEMPTED
    before = state(runs["opening"])
    done = runs.start(1, "opening", at="opening", signals=["SIGTERM"])
    assert done.returncode == PREEMPTED, done.stdout + done.stderr
    assert state(runs["opening"]) == before == ("preempted", True, 3)


def test_signals_inside_a_save_leave_it_whole(runs: Runs) -> None:
    trouble = {"at": "save", "step": 3, "signals": ["SIGTERM", "SIGUSR2"]}
    done = runs.start(1, "saving", "checkpoint.asynchronous=false", **trouble)
    assert done.returncode == PREEMPTED, done.stdout + done.stderr
    assert state(runs["saving"]) == ("preempted", True, 3)
    assert load(runs["saving"] / "checkpoints" / "latest").files["training.pt"]["step"] == 3


def test_a_stop_that_can_not_be_saved_is_a_failure(runs: Runs, whole: Callable[[int], Path]) -> None:
    done = runs.start(2, "full", at="full disk", step=1, signals=["SIGTERM"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "step_00000003: was not saved: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert Store(runs["full"] / "checkpoints").steps() == []
    assert state(runs["full"])[:2] == ("failed", True)
    done = runs.start(2, "full")
    assert done.returncode == 0, done.stderr
    assert_same(runs["full"], whole(2))


def test_a_launcher_that_restarts_stopped_ranks_does_not_train_on(runs: Runs, torchrun: Ranks) -> None:
    trouble = {"at": "step", "step": 1, "rank": 1, "signals": ["SIGUSR1"]}
    done = torchrun(2, "--max_restarts=1", *runs.command("restarted"), env=variables(trouble), timeout=120)
    assert done.returncode == 1
    assert state(runs["restarted"]) == ("preempted", True, 3)
    assert status(runs["restarted"])["attempt"] == 1


@pytest.mark.parametrize(
    ("ranks", "at", "overrides"),
    [
        (2, "nan images", ("train.micro_batch=20",)),
        (2, "nan gradient", ("log.ledger=false", "log.every_steps=100", "log.weights_every_steps=100")),
    ],
)
def test_numbers_that_are_not_finite_end_the_run(runs: Runs, ranks: int, at: str, overrides: tuple[str, ...]) -> None:
    name = "-".join(["nan", str(ranks), *at.split(), *map(str, overrides[:1])])
    done = runs.start(ranks, name, *overrides, at=at, step=5, rank=ranks - 1)
    assert done.returncode == 4, done.stdout + done.stderr
    assert done.stderr.count("the run failed ----") == 1
    assert "Traceback" not in done.stderr
    found = read_verdict(runs[name])
    assert found is not None
    assert found.cause == "non_finite"
    assert at != "nan images" or found.rank == ranks - 1
    if "log.ledger=false" not in overrides:
        assert all(word in found.error for word in ("step 6", "gradient norm", "learning rate 0.05", "samples ["))
    assert state(runs[name])[:2] == ("failed", False)
    store = Store(runs[name] / "checkpoints")
    assert store.steps() == [3, 4][: len(store.steps())] != []
    assert all(list_not_finite(load(store.path(step)).files["model.pt"]) == [] for step in store.steps())
    assert runs.start(ranks, name, *overrides).returncode == 0


def test_weights_that_are_not_used_are_named_once(runs: Runs) -> None:
    done = runs.start(2, "unused", at="unused")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("spare.weight, spare.bias take no part in the loss") == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_killed_rank_is_reported_once_and_again_by_postmortem(runs: Runs, python: Python) -> None:
    done = runs.start(2, "killed", at="step", step=1, rank=1, signals=["SIGKILL"])
    assert done.returncode == 1
    assert done.stderr.count("---- killed: the run failed ----") == 1
    again = python("-m", "launch", "postmortem", str(runs["killed"]))
    assert again.returncode == 1
    screen = again.stdout.strip()
    assert "first failed   rank 1(2)" in screen
    assert screen in done.stderr
