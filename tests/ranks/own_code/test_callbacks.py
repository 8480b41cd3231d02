"""Callbacks in whole trainings at 1 and 2 real ranks: calls, their state over kills, and their exceptions."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from dist_train.checkpoint import serialization
from dist_train.monitoring.ledger import read
from dist_train.monitoring.ledger_comparison import Comparison, compare
from dist_train.run_dir import RunDir
from tests.conftest import Python
from tests.ranks.conftest import DoJobs

pytestmark = pytest.mark.slow

WORLDS = (1, 2)
CUTS = (3, 6)
# An epoch has 5 steps, with an evaluation at its end; checkpoints at every third step and for each best evaluation.
CONFIG = """
data: {name: synthetic, shape: [1, 8, 8], num_classes: 3, num_train: 40, num_test: 20, global_batch: 8}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.02}
train: {epochs: 2}
checkpoint: {every_steps: 3, keep_last: 100, keep_best: false}
log: {tensorboard: false}
callbacks: [{name: "hooks.py:Counts", args: {weight: 2}}, "hooks.py:Records"]
"""
HOOKS = """
import json, os, signal
from pathlib import Path

import torch
import torch.distributed as dist
from dist_train.checkpoint import serialization
from dist_train.training.callbacks import RunView, StepView


class Counts:
    \"\"\"Adds up what each step and evaluation gives, over all ranks.\"\"\"

    def __init__(self, weight: int) -> None:
        self.weight, self.losses, self.samples, self.accuracies = weight, torch.zeros((), dtype=torch.float64), 0, []

    def on_step(self, run: RunView, step: StepView) -> None:
        self.losses += self.weight * step.loss
        own = torch.tensor(sum(each.num_samples for each in step.passes))
        if run.world_size > 1:
            dist.all_reduce(own)
        assert int(own) == len(step.samples)
        self.samples += int(own)

    def on_evaluate(self, run: RunView, evaluation) -> None:
        self.accuracies.append((run.step, evaluation.split, evaluation.values["loss"]))

    def state_dict(self):
        return {"losses": self.losses, "samples": self.samples, "accuracies": self.accuracies}

    def load_state_dict(self, state):
        self.losses, self.samples, self.accuracies = state["losses"], state["samples"], state["accuracies"]


class Records:
    \"\"\"Writes its calls to a file of each rank; `HOOK` in the environment makes one of them die or raise.\"\"\"

    def note(self, run: RunView, method: str, value=None) -> None:
        with (run.run_dir / f"calls-{run.rank}.jsonl").open("a") as file:
            file.write(json.dumps([method, run.step, value]) + "\\n")
        what, where, rank = os.environ.get("HOOK", "- - 0").split()
        if where == f"{method}:{run.step}" and int(rank) == run.rank:
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("of the hook")

    def on_start(self, run: RunView) -> None:
        self.note(run, "on_start")

    def on_step(self, run: RunView, step: StepView) -> None:
        self.note(run, "on_step")

    def on_evaluate(self, run: RunView, evaluation) -> None:
        self.note(run, "on_evaluate", evaluation.split)

    def on_checkpoint(self, run: RunView, path: Path) -> None:
        assert serialization.load(path).files["training.pt"]["step"] == run.step
        self.note(run, "on_checkpoint", path.name)

    def on_end(self, run: RunView, is_done: bool) -> None:
        self.note(run, "on_end", is_done)
"""
WHOLE = [
    ["on_start", 0, None],
    *(["on_step", step, None] for step in (1, 2, 3)),
    ["on_checkpoint", 3, "step_00000003"],
    *(["on_step", step, None] for step in (4, 5)),
    ["on_evaluate", 5, "test"],
    ["on_step", 6, None],
    ["on_checkpoint", 6, "step_00000006"],
    *(["on_step", step, None] for step in (7, 8, 9)),
    ["on_checkpoint", 9, "step_00000009"],
    ["on_step", 10, None],
    ["on_evaluate", 10, "test"],
    ["on_checkpoint", 10, "step_00000010"],
    ["on_end", 10, True],
]


class Project:
    """A folder with settings and hooks."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.config = directory, directory / "small.yaml"
        self.config.write_text(CONFIG)
        (directory / "hooks.py").write_text(HOOKS)

    def command(self, run: str) -> list[str]:
        return [str(self.config), f"data.cache={self.directory / 'cache'}", f"run.dir={self.directory / run}"]

    def calls(self, run: str, rank: int = 0) -> list[Any]:
        lines = (self.directory / run / f"calls-{rank}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def state(self, run: str) -> Any:
        return serialization.load(self.directory / run / "checkpoints" / "latest").files["training.pt"]["callbacks"]

    def assert_same(self, run: str, whole: str = "whole") -> None:
        (state,), (expected,) = self.state(run), self.state(whole)
        assert state == expected
        ledgers = [read(self.directory / name / "ledger.jsonl") for name in (run, whole)]
        assert compare(ledgers[0], ledgers[1]) == Comparison(10, None)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, python: Python) -> Project:
    """With an undisturbed run."""
    project = Project(tmp_path_factory.mktemp("callbacks"))
    done = python("-m", "dist_train", *project.command("whole"))
    assert done.returncode == 0, done.stderr
    return project


@pytest.mark.parametrize("ranks", WORLDS)
def test_calls_and_state_are_the_same_wherever_a_run_was_cut(project: Project, do_jobs: DoJobs, ranks: int) -> None:
    jobs: list[dict[str, Any]] = [{"train": project.command("whole")}]
    for cut in CUTS:
        jobs.append({"cut": str(project.directory / "whole"), "to": str(project.directory / f"cut-{cut}"), "step": cut})
        jobs.append({"train": project.command(f"cut-{cut}")})
    jobs.append({"train": project.command("whole")})
    do_jobs(ranks, jobs)
    again = [["on_start", 10, None], ["on_end", 10, True]]
    for rank in range(ranks):
        assert project.calls("whole", rank) == [*WHOLE, *again]
        for cut in CUTS:
            rest = WHOLE[WHOLE.index(["on_checkpoint", cut, f"step_{cut:08d}"]) + 1 :]
            assert project.calls(f"cut-{cut}", rank) == [*WHOLE, ["on_start", cut, None], *rest]
    (state,) = project.state("whole")
    assert state["state"]["samples"] == 2 * 40
    assert [step for step, *_ in state["state"]["accuracies"]] == [5, 10]
    for cut in CUTS:
        project.assert_same(f"cut-{cut}")


@pytest.mark.parametrize(
    "where", ["on_start:0", "on_step:4", "on_step:6", "on_evaluate:5", "on_checkpoint:6", "on_end:10"]
)
def test_a_kill_within_any_callback_changes_no_bit(whole: Project, python: Python, where: str) -> None:
    project, command = whole, ("-m", "dist_train")
    name = f"killed-{where.replace(':', '-')}"
    killed = python(*command, *project.command(name), env={"HOOK": f"kill {where} 0"})
    assert killed.returncode == -signal.SIGKILL
    done = python(*command, *project.command(name))
    assert done.returncode == 0, done.stderr
    project.assert_same(name)


@pytest.mark.parametrize(
    ("where", "rank"),
    [
        ("on_step:4", 1),
        ("on_checkpoint:6", 0),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (("on_start:0", 1), ("on_evaluate:5", 0), ("on_end:10", 1))
        ),
    ],
)
def test_an_exception_of_one_rank_ends_the_run_and_nothing_is_lost(
    project: Project, python: Python, where: str, rank: int
) -> None:
    """Exit code 1, her traceback without our frames, and the same command continues."""
    command = ("-m", "launch", "train", *project.command("run"), "--nproc", "2")
    failed = python(*command, env={"HOOK": f"raise {where} {rank}"}, timeout=60)
    output = failed.stdout + failed.stderr
    method, _, step = where.partition(":")
    assert failed.returncode == 1, output
    assert f"hooks.py:Records: {method} after step {step} on rank {rank} failed:" in output
    assert "RuntimeError: of the hook" in output
    assert "training/callbacks.py" not in output
    status = RunDir(project.directory / "run").read_status()
    assert status is not None
    assert (status["state"], status["resumable"]) == ("failed", True)
    done = python(*command, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.state("run")[0]["state"]["samples"] == 2 * 40


def test_callbacks_on_the_command_line_and_at_a_resume(project: Project, python: Python) -> None:
    """A run may have other callbacks when it continues; which state is dropped is said."""
    command = ("-m", "dist_train", *project.command("run"), "train.max_steps=3")
    assert python(*command).returncode == 0
    more = (f"callbacks=[{project.directory / 'hooks.py'}:Records]", "train.max_steps=6")
    done = python(*command[:-1], *more)
    assert done.returncode == 0, done.stderr
    assert "hooks.py:Counts in the checkpoint is dropped" in done.stdout + done.stderr
    assert project.calls("run")[-1] == ["on_end", 6, True]


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("weight: int", "wait: int", "has no argument weight; did you mean wait?"),
        ("return {", "return {1, 2} or {", "is of type set, which a checkpoint can't hold"),
        ("def on_step(", "def on_steps(", "has on_steps, which is never called; did you mean on_step?"),
    ],
)
def test_a_wrong_callback_is_refused_before_the_first_step(
    project: Project, python: Python, right: str, wrong: str, message: str
) -> None:
    hooks = HOOKS.replace(right, wrong)
    (project.directory / "hooks.py").write_text(hooks)
    refused = python("-m", "dist_train", *project.command("run"))
    output = refused.stdout + refused.stderr
    assert refused.returncode == 2, output
    assert output.count(message) == 1
    assert "Traceback" not in output
    assert not (project.directory / "run").exists()
