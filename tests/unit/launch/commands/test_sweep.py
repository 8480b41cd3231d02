"""`dist-train sweep`: what varies, where each trial lies, what the same command does again, and real trials."""

import fcntl
import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir
from launch.local import placement, training_command
from launch.slurm.resources import Resources, add_resources
from launch.slurm.submission import Submission, lay_out
from launch.sweeps import sweep_dir
from launch.sweeps.grid import LONGEST, Grid, directory_name, values
from launch.sweeps.sweep import Sweep
from launch.sweeps.sweep_dir import trials
from tests.conftest import ROOT, Python, children_of
from tests.unit.launch.commands.test_ckpt import asked
from tests.unit.launch.commands.test_status import wait_until
from tests.unit.launch.commands.test_submit import GOLDEN, RENEW

CONFIG = """
data: {name: synthetic, num_train: 320, num_test: 32, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.02}
train: {epochs: 2}
log: {every_steps: 20, tensorboard: false}
distributed: {backend: gloo}
"""
SLURM = ("--slurm", "--gpus-per-node", 0)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's directory, on a machine without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


def sweep_of(*overrides: str) -> Sweep:
    return Sweep.of(Path("small.yaml"), Grid.of(overrides), lambda _: None)


def begin(*overrides: str) -> Sweep:
    """Write down a sweep, as a start does."""
    sweep = sweep_of(*overrides)
    with sweep.claimed():
        return sweep


def leave(sweep: Sweep, number: int, state: str) -> None:
    run = RunDir(sweep.trials[number].path)
    run.path.mkdir(parents=True)
    run.status.write_text(json.dumps({"state": state, "step": 1}))


def names(sweep: Sweep) -> list[str]:
    return [trial.path.name for trial in sweep.trials]


class TestGrid:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("0.05, 0.1", ["0.05", "0.1"]),
            ("[1,28,28],[3,32,32]", ["[1,28,28]", "[3,32,32]"]),
            ("[1,28,28]", ["[1,28,28]"]),
            ("{mean: [0.1,0.2], std: [1,1]},auto", ["{mean: [0.1,0.2], std: [1,1]}", "auto"]),
            ("'a,b',\"c,d\"", ["'a,b'", '"c,d"']),
            ("['a]',b],c", ["['a]',b]", "c"]),
            ("it's,that", ["it's", "that"]),
            ("", [""]),
        ],
    )
    def test_commas_outside_of_brackets_and_quotes_separate(self, text: str, expected: list[str]) -> None:
        assert list(values(text)) == expected

    def test_the_last_setting_varies_fastest(self) -> None:
        grid = Grid.of(["optim.lr=0.1,0.2", "train.epochs=5", "data.global_batch=8,16"])
        assert grid.common == ("train.epochs=5",)
        assert grid.trials() == [
            ("optim.lr=0.1", "data.global_batch=8"),
            ("optim.lr=0.1", "data.global_batch=16"),
            ("optim.lr=0.2", "data.global_batch=8"),
            ("optim.lr=0.2", "data.global_batch=16"),
        ]

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            ([], "needs a setting with several values"),
            (["optim.lr=0.1", "data.shape=[1,28,28]"], "commas between them: optim.lr=0.05,0.1,0.2"),
            (["run.name=a,b"], "run.name=a,b: run.name can't vary in a sweep: each trial has a directory of its own"),
            (["run.dir=a,b"], "run.dir can't vary"),
            (["run.resume=auto,never"], "run.resume can't vary"),
            (["optim.lr=0.1,,0.2"], "one of its values is empty; write optim.lr=0.1,0.2"),
            (["optim.lr=0.1,0.2", "optim.lr=0.3"], "optim.lr is set twice"),
            (["optim.lr=0.1,0.2", "run.name=a\nb"], "holds a line break"),
        ],
    )
    def test_what_is_no_grid_is_refused(self, overrides: list[str], said: str) -> None:
        with pytest.raises(ConfigError) as refused:
            Grid.of(overrides)
        assert said in str(refused.value)

    def test_names_of_directories(self) -> None:
        assert directory_name(0, ["optim.lr=0.05", "data.global_batch=256"]) == "0-lr=0.05-global_batch=256"
        assert directory_name(1, ["data.shape=[1, 28]", "data.root=/a b/ü"]) == "1-shape=_1_28_-root=_a_b_"
        assert directory_name(2, ["optim.name=adam", "model.name=x"]) == "2-optim.name=adam-model.name=x"
        assert len(directory_name(3, [f"data.root={'a' * 300}"])) == LONGEST


class TestDirectory:
    def test_what_is_written(self, here: Path) -> None:
        sweep = begin("optim.lr=0.1,0.2", "run.name=x", "train.epochs=1")
        assert json.loads((here / "runs/x.sweep/sweep.json").read_text()) == {
            "config": "small.yaml",
            "overrides": ["run.name=x", "train.epochs=1"],
            "axes": {"optim.lr": ["0.1", "0.2"]},
            "trials": [
                {"number": 0, "overrides": ["optim.lr=0.1"], "dir": "runs/x.sweep/0-lr=0.1"},
                {"number": 1, "overrides": ["optim.lr=0.2"], "dir": "runs/x.sweep/1-lr=0.2"},
            ],
        }
        assert (sweep.directory / "small.yaml").read_text() == CONFIG
        assert sweep.own(sweep.trials[1]) == ("optim.lr=0.2", "run.dir=runs/x.sweep/1-lr=0.2")

    def test_a_directory_of_the_run_is_given_to_none_of_the_trials(self) -> None:
        sweep = begin("optim.lr=0.1,0.2", "run.dir=other/place", "train.epochs=1")
        assert sweep.directory == Path("other/place.sweep")
        assert sweep.shared() == ("train.epochs=1",)

    def test_done_trials_stay_and_others_are_left(self) -> None:
        sweep = begin("optim.lr=0.1,0.2,0.3,0.4")
        for number, state in enumerate(["done", "failed", "preempted"]):
            leave(sweep, number, state)
        again = sweep_of("optim.lr=0.1,0.2,0.3,0.4")
        assert again.trials == sweep.trials
        assert [trial.number for trial in again.left()] == [1, 2, 3]

    def test_another_grid_joins(self) -> None:
        begin("optim.lr=0.1,0.2")
        begin("optim.lr=0.3,1e-1", "data.global_batch=16,32")
        assert [trial.path.name for trial in trials(Path("runs/small.sweep"))] == [
            "0-lr=0.1",
            "1-lr=0.2",
            "2-lr=0.3-global_batch=16",
            "3-lr=0.3-global_batch=32",
            "4-lr=1e-1-global_batch=32",
        ]
        assert names(sweep_of("data.global_batch=32,16", "optim.lr=0.3,0.2"))[1:] == [
            "5-global_batch=32-lr=0.2",
            "2-lr=0.3-global_batch=16",
            "1-lr=0.2",
        ]
        axes = json.loads(Path("runs/small.sweep/sweep.json").read_text())["axes"]
        assert axes == {"optim.lr": ["0.1", "0.2", "0.3", "1e-1"], "data.global_batch": ["16", "32"]}

    @pytest.mark.parametrize(
        ("overrides", "config", "said"),
        [
            (["optim.lr=0.1,0.2", "train.epochs=3"], CONFIG, "  train.epochs: 2 then, 3 now"),
            (["optim.lr=0.1,0.2"], CONFIG.replace("mnist_cnn", "lenet"), "  model.name: mnist_cnn then"),
            (["run.seed=1,2"], CONFIG.replace("0.02", "0.03"), "  optim.lr: 0.02 then, 0.03 now"),
        ],
    )
    def test_a_sweep_of_other_settings_is_refused(
        self, here: Path, overrides: list[str], config: str, said: str
    ) -> None:
        begin("optim.lr=0.1,0.2")
        (here / "small.yaml").write_text(config)
        with pytest.raises(ConfigError) as refused:
            sweep_of(*overrides)
        assert said in str(refused.value)
        assert "give this sweep another run.name" in str(refused.value)

    def test_what_means_the_same_goes_on(self, here: Path) -> None:
        begin("optim.lr=0.1,0.2")
        (here / "small.yaml").write_text(f"# the same\n{CONFIG}")
        assert names(sweep_of("optim.lr=0.1,0.2", "train.epochs=2")) == ["0-lr=0.1", "1-lr=0.2"]

    def test_all_faults_of_all_trials_are_told_once(self) -> None:
        with pytest.raises(ConfigError) as refused:
            sweep_of("optim.lr=0.1,1e-1,fast", "data.global_batch=8,0", "optim.lrr=1")
        told = str(refused.value).splitlines()
        assert len(told) == len(set(told))
        for said in ("optim.lrr is not a setting", "optim.lr is 'fast'", "data.global_batch is 0"):
            assert sum(said in line for line in told) == 1

    def test_equal_trials_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"optim\.lr=0\.1 and optim\.lr=1e-1: the same trial"):
            sweep_of("optim.lr=0.1,1e-1")

    def test_it_can_t_begin_anew(self) -> None:
        with pytest.raises(ConfigError, match=r"To begin runs/small\.sweep anew, remove it"):
            sweep_of("optim.lr=0.1,0.2", "run.resume=never")

    def test_files_of_others_are_left_alone(self, here: Path) -> None:
        (here / "runs/small.sweep").mkdir(parents=True)
        (here / "runs/small.sweep/thesis.tex").touch()
        with pytest.raises(ConfigError, match="holds files and no sweep"):
            sweep_of("optim.lr=0.1,0.2")

    def test_a_list_that_was_changed_is_refused(self) -> None:
        sweep = begin("optim.lr=0.1,0.2")
        (sweep.directory / "sweep.json").write_text('{"trials": []}')
        with pytest.raises(ConfigError, match="is no list of trials: KeyError"):
            sweep_of("optim.lr=0.1,0.2")

    def test_only_one_sweep_works_in_a_directory(self) -> None:
        sweep = begin("optim.lr=0.1,0.2")
        with (sweep.directory / "sweep.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(ConfigError, match="another sweep works there"), sweep.claimed():
                pytest.fail("claimed")
        with sweep.claimed():
            assert sweep_dir.worker(sweep.directory) == os.getpid()

    def test_a_grid_that_has_joined_meanwhile_is_not_lost(self) -> None:
        begin("optim.lr=0.1,0.2")
        late = sweep_of("optim.lr=0.1,0.3")
        begin("optim.lr=0.1,0.4")
        with pytest.raises(ConfigError, match="another grid has just joined"), late.claimed():
            pytest.fail("claimed")

    def test_a_process_that_is_over_does_not_work_there(self) -> None:
        sweep = begin("optim.lr=0.1,0.2")
        lock = sweep.directory / "sweep.lock"
        lock.write_text(json.dumps({**json.loads(lock.read_text()), "start": 1}))
        assert sweep_dir.worker(sweep.directory) is None


class TestCommand:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--nodes", 2], "--nodes: only for jobs of Slurm; add --slurm"),
            (["--cpus-per-task", 2, "--local"], "--cpus-per-task: only for jobs of Slurm"),
            (["--", "--nice"], "flags after --: only for jobs of Slurm"),
            ([*SLURM, "--nproc", 2], "with --slurm it is --nproc-per-node"),
            (["--slurm"], "--gpus-per-node is missing"),
            ([*SLURM, "--nproc-per-node", 20], "data.global_batch is 16, less than the 20 ranks"),
            (["--slurm", "--local"], "not allowed with argument"),
            (["--nproc", 3, "run.reproducible=bitwise"], "which 3 ranks can't share equally"),
            (["--max-parallel", 0], "it must be a number from 1 up"),
            (list(SLURM), "sbatch: no such command here"),
        ],
    )
    def test_what_can_t_be_is_refused_before_anything_is_written(
        self, here: Path, capsys: pytest.CaptureFixture[str], options: list[Any], said: str
    ) -> None:
        code, output = asked(capsys, "sweep", "small.yaml", "optim.lr=0.1,0.2", *options)
        assert (code, said in output, "Traceback" in output) == (2, True, False), output
        assert not (here / "runs").exists()

    def test_a_dry_run_here_lists_what_is_left(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        leave(begin("optim.lr=0.1,0.2"), 0, "done")
        code, said = asked(capsys, "sweep", "small.yaml", "optim.lr=0.1,0.2,0.3", "--dry-run")
        assert (code, said) == (
            0,
            "runs/small.sweep: 3 trials, 2 to be trained\n  1: optim.lr=0.2\n  2: optim.lr=0.3\n",
        )
        assert len(trials(here / "runs/small.sweep")) == 2

    def test_a_dry_run_prints_the_line_and_the_script(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/venv/bin/python")
        leave(begin("optim.lr=0.1,0.2,0.3"), 1, "done")
        grid = ("optim.lr=0.1,0.2,0.3", "data.global_batch=16,32")
        code, said = asked(capsys, "sweep", "small.yaml", *grid, *SLURM, "--max-parallel", 3, "--dry-run")
        assert code == 0
        line, script = said.split("\n\n", 1)
        assert script == (ROOT / "slurm" / "train.sbatch").read_text()
        golden = GOLDEN / "sweep.txt"
        if RENEW in os.environ:
            golden.write_text(f"{line}\n")
        assert f"{line}\n" == golden.read_text()

    def test_a_sweep_that_is_done_asks_nobody(self, capsys: pytest.CaptureFixture[str]) -> None:
        sweep = begin("optim.lr=0.1,0.2")
        for number in (0, 1):
            leave(sweep, number, "done")
        for options in ((), SLURM):
            code, said = asked(capsys, "sweep", "small.yaml", "optim.lr=0.1,0.2", *options)
            assert (code, "2 trials, 0 to be" in said) == (0, True)


def test_a_task_of_an_array_finds_its_settings() -> None:
    parser = ArgumentParser()
    add_resources(parser)
    resources = Resources.of(parser.parse_args(["--gpus-per-node", "0"]))
    sweep = begin("optim.lr=0.1,0.2", "run.dir=100%a/x")
    own = {trial.number: sweep.own(trial) for trial in sweep.trials}
    submission = Submission(resources, "x", sweep.directory / "jobs" / "1", ("small.yaml",), own)
    lay_out(sweep.begun.config, submission)
    task = sweep.directory / "jobs" / "1" / "trials" / "1"
    assert task.read_text() == "optim.lr=0.2\nrun.dir=100%a/x.sweep/1-lr=0.2\n"
    assert "--output=100%%a/x.sweep/jobs/slurm-%A_%a.out" in submission.command()
    assert "--array=0,1" in submission.command()


class TestShares:
    @pytest.mark.parametrize(
        ("runs", "expected"), [(1, [{0, 1, 5, 7}]), (2, [{0, 1}, {5, 7}]), (3, [{0}, {1}, {5}]), (5, [{0}, {1}])]
    )
    def test_each_run_has_cores_of_its_own(
        self, monkeypatch: pytest.MonkeyPatch, runs: int, expected: list[set[int]]
    ) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 7}, raising=False)
        assert [placement.cores(place, runs) for place in range(runs)][: len(expected)] == expected
        assert placement.cores(4, 5) == {0}

    @pytest.mark.parametrize(
        ("runs", "ranks", "visible", "expected"),
        [
            (2, None, None, ["0,1", "2,3"]),
            (3, 1, None, ["0", "1", "2"]),
            (2, None, "7,5", ["7", "5"]),
            (2, 3, None, [None, None]),
            (5, None, None, [None, None]),
            (1, None, None, [None]),
            (2, 1, "", ["", ""]),
        ],
    )
    def test_each_run_has_gpus_of_its_own_where_there_are_enough(
        self,
        here: Path,
        monkeypatch: pytest.MonkeyPatch,
        runs: int,
        ranks: int | None,
        visible: str | None,
        expected: list[str | None],
    ) -> None:
        for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl"):
            (here / "dev" / name).parent.mkdir(exist_ok=True)
            (here / "dev" / name).touch()
        monkeypatch.setattr(training_command, "DEVICES", here / "dev")
        environ = {} if visible is None else {placement.VISIBLE: visible}
        found = [placement.variables(place, runs, ranks, environ) for place in range(len(expected))]
        assert [each.get(placement.VISIBLE) for each in found] == expected


@pytest.mark.slow
def test_trials_train_side_by_side_and_one_that_fails_ends_no_other(here: Path, python: Python) -> None:
    command = ("-m", "launch", "sweep", "small.yaml", "optim.lr=0.05,1e30,0.1", "train.max_steps=20", "--nproc", "1")
    first = python(*command, "--max-parallel", "2", cwd=here)
    assert first.returncode == 1, first.stderr
    for said in ("trial 1: failed with exit code 4", "the loss of step", "trial 0: done", "trial 2: done"):
        assert said in first.stdout
    assert [line.split()[0] for line in first.stdout.splitlines()[-3:]][-1] == "1", "no score: the last of the table"
    sweep = sweep_of("optim.lr=0.05,1e30,0.1", "train.max_steps=20")
    assert [trial.number for trial in sweep.left()] == [1]
    assert (sweep.trials[0].path / "logs" / "rank_0.log").exists()
    again = python(*command, cwd=here)
    assert again.returncode == 1
    assert "3 trials, 1 to be trained" in again.stdout
    assert "trial 0: begins" not in again.stdout


@pytest.mark.slow
def test_a_sweep_that_is_cancelled_stops_as_a_whole_and_goes_on(here: Path, python: Python) -> None:
    sweep = sweep_of("optim.lr=0.05,0.1,0.2", "train.epochs=100")
    command = [sys.executable, "-m", "launch", "sweep", "small.yaml", "optim.lr=0.05,0.1,0.2", "train.epochs=100"]
    options = ["--nproc", "2", "--max-parallel", "2"]
    with (here / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, *options], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=said, stderr=said
        )
    try:
        wait_until(lambda: all(step_of(trial.path) > 2 for trial in sweep.trials[:2]))
        cancelled = python("-m", "launch", "cancel", str(sweep.directory), "--wait", cwd=here)
        assert process.wait(60) == 75, (here / "said").read_text()
    finally:
        process.kill()
        process.wait()
    assert cancelled.returncode == 0, cancelled.stderr
    assert "is asked to begin no more of its trials" in cancelled.stdout
    text = (here / "said").read_text()
    assert text.count("stopped, and can go on") == 2
    assert "trial 2: begins" not in text
    stopped = [step_of(trial.path) for trial in sweep.trials]
    done = python(*command[1:], *options, "--nproc", "1", cwd=here)
    assert done.returncode == 0, done.stderr
    assert sweep.left() == []
    for trial, step in zip(sweep.trials, stopped, strict=True):
        assert (RunDir(trial.path).read_status() or {})["started_step"] == step


def step_of(run: Path) -> int:
    """Steps that a run has told of; 0 where it has not begun."""
    status = RunDir(run).read_status()
    return int(status["step"]) if status else 0


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_no_trial_outlives_a_sweep_that_is_killed() -> None:
    sweep = sweep_of("optim.lr=0.05,0.1", "train.epochs=600")
    command = [sys.executable, "-m", "launch", "sweep", "small.yaml", "optim.lr=0.05,0.1", "train.epochs=600"]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: step_of(sweep.trials[0].path) > 2)
    trained = children_of(process.pid)
    process.kill()
    process.wait()
    assert trained
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in trained))
