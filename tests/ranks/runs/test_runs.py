"""Whole runs, as a user starts them: what they leave behind, how they resume, and what they refuse."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from PIL import Image

from dist_train.monitoring.metrics import read_lines
from dist_train.settings.loader import load_config
from dist_train.settings.schema import ImageData
from tests.conftest import ROOT, Python, Ranks, weights_hash

pytestmark = pytest.mark.slow


SMALL = """
data: {name: synthetic, num_train: 96, num_test: 40, global_batch: 16, validation: 0.25}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.05, momentum: 0.9}
train: {epochs: 4}
checkpoint: {every_steps: 2, keep_last: 2}
log: {every_steps: 3}
"""
STEPS = 20  # 72 training samples in batches of 16 are 5 steps an epoch


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    (directory / "small.yaml").write_text(SMALL)
    return directory


def command(directory: Path, name: str, *overrides: str) -> list[str]:
    return ["-m", "dist_train", str(directory / "small.yaml"), f"run.dir={directory / name}", *overrides]


@pytest.fixture(scope="module")
def finished(directory: Path, on_ranks: Ranks) -> tuple[Path, str]:
    """A run of two ranks, and what it printed."""
    done = on_ranks(2, *command(directory, "finished"))
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "finished", done.stdout


class TestWhatARunLeaves:
    def test_every_file_is_there_and_nothing_else(self, finished: tuple[Path, str]) -> None:
        files = {"config.yaml", "status.json", "metrics.jsonl", "ledger.jsonl", "env.json", "run.lock"}
        expected = files | {"tb", "logs", "checkpoints", "diagnostics"}
        assert {path.name for path in finished[0].iterdir()} == expected

    def test_it_says_how_gradients_go(self, finished: tuple[Path, str]) -> None:
        assert "gradients go between ranks through shared memory\n" in finished[1]

    def test_status(self, finished: tuple[Path, str]) -> None:
        status = json.loads((finished[0] / "status.json").read_text())
        assert (status["state"], status["step"], status["epoch"]) == ("done", STEPS, 4)
        assert {"updated", "host", "pid"} <= set(status)

    def test_metrics(self, finished: tuple[Path, str]) -> None:
        lines = read_lines(finished[0] / "metrics.jsonl")
        trained = [line for line in lines if line["kind"] == "train"]
        assert [line["step"] for line in trained] == [3, 6, 9, 12, 15, 18, STEPS]
        assert all({"epoch", "loss", "lr", "samples_per_second"} <= set(line) for line in trained)
        assert all(line["samples_per_second"] > 0 for line in trained)
        evaluated = [(line["step"], line["split"]) for line in lines if line["kind"] == "eval"]
        assert evaluated == [
            (5, "validation"),
            (10, "validation"),
            (15, "validation"),
            (20, "validation"),
            (20, "test"),
        ]
        last = lines[-1]
        assert last["count"] == 40
        assert last["accuracy"] == last["correct"] / 40
        assert sum(row["correct"] for row in last["per_class"].values()) == last["correct"]
        assert sum(row["count"] for row in last["per_class"].values()) == 40

    def test_curves_are_those_of_the_metrics(self, finished: tuple[Path, str]) -> None:
        lines = [line for line in read_lines(finished[0] / "metrics.jsonl") if line["kind"] == "train"]
        points = curve(finished[0], "train/loss")
        assert [step for step, _ in points] == [line["step"] for line in lines]
        assert [loss for _, loss in points] == pytest.approx([line["loss"] for line in lines])

    def test_checkpoints(self, finished: tuple[Path, str]) -> None:
        checkpoints = finished[0] / "checkpoints"
        best = (checkpoints / "best").readlink().name
        assert (checkpoints / "latest").readlink().name == "step_00000020"
        assert {path.name for path in checkpoints.iterdir()} == {
            "latest",
            "best",
            "step_00000018",
            "step_00000020",
            best,
        }
        manifest = json.loads((checkpoints / "latest" / "manifest.json").read_text())
        assert manifest["step"] == STEPS
        for name, about in manifest["files"].items():
            content = (checkpoints / "latest" / name).read_bytes()
            assert about == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        training = torch.load(checkpoints / "latest" / "training.pt", weights_only=True)
        assert (training["step"], training["epoch"]) == (STEPS, 4)
        assert {"optimizer_state_dict", "loss"} <= set(training)
        model = torch.load(checkpoints / "latest" / "model.pt", weights_only=True)
        assert list(model) == [
            f"{layer}.{part}" for layer in ("conv1.0", "conv2.0", "output") for part in ("weight", "bias")
        ]

    def test_the_settings_load_again(self, finished: tuple[Path, str], directory: Path) -> None:
        written = load_config(finished[0] / "config.yaml")
        assert isinstance(written.data, ImageData)
        given = [f"run.dir={finished[0]}", "run.name=small", f"data.cache={written.data.cache}"]
        assert written == load_config(directory / "small.yaml", given)

    def test_the_environment_holds_no_variables(self, finished: tuple[Path, str]) -> None:
        text = (finished[0] / "env.json").read_text()
        assert json.loads(text)["packages"]["torch"] == torch.__version__
        assert os.environ["PATH"] not in text

    def test_each_line_is_printed_once_and_logged(self, finished: tuple[Path, str]) -> None:
        printed = finished[1].splitlines()
        assert len([line for line in printed if "test accuracy" in line and "step 20" in line]) == 1
        log = (finished[0] / "logs" / "rank_0.log").read_text()
        assert "test accuracy" in log
        assert "can't be written" not in finished[1]
        other = (finished[0] / "logs" / "rank_1.log").read_text()
        assert "rank 1(2) starts at step 0 on cpu: host" in other
        assert other.endswith("rank 1(2) leaves: done\n")


class TestResume:
    def test_a_finished_run_has_nothing_left_to_do(
        self, directory: Path, finished: tuple[Path, str], python: Python
    ) -> None:
        before = (finished[0] / "metrics.jsonl").read_text()
        done = python(*command(directory, "finished"))
        assert done.returncode == 0, done.stderr
        assert "nothing left to do" in done.stdout
        assert "test accuracy" in done.stdout
        assert (finished[0] / "metrics.jsonl").read_text() == before

    def test_a_killed_run_ends_with_the_same_bits(
        self, directory: Path, finished: tuple[Path, str], on_ranks: Ranks
    ) -> None:
        run = directory / "killed"
        kill_after_a_checkpoint(command(directory, "killed"), run)
        assert json.loads((run / "status.json").read_text())["state"] == "running"
        done = on_ranks(2, *command(directory, "killed"))
        assert done.returncode == 0, done.stderr
        assert "continues at step" in done.stdout
        assert weights_hash(run) == weights_hash(finished[0])
        assert timeless(run) == timeless(finished[0])
        assert curve(run, "train/loss") == curve(finished[0], "train/loss")

    def test_more_epochs_go_on_from_the_end(self, directory: Path, finished: tuple[Path, str], python: Python) -> None:
        shutil.copytree(finished[0], directory / "longer", symlinks=True)
        done = python(*command(directory, "longer", "train.epochs=5", "optim.lr=0.01"))
        assert done.returncode == 0, done.stderr
        assert "train.epochs: 4 -> 5" in done.stdout
        assert "optim.lr: 0.05 -> 0.01" in done.stdout
        assert "bits of the result may differ" in done.stdout
        assert json.loads((directory / "longer" / "status.json").read_text())["step"] == 25

    @pytest.mark.parametrize(
        ("override", "named"),
        [
            ("run.seed=1", "run.seed: 0 in the checkpoint, 1 now"),
            ("data.global_batch=8", "data.global_batch"),
            ("data.augment.flip=true", "data.augment.flip"),
            ("data.limit_train=50", "data.limit_train"),
            ("data.validation=0.5", "data.validation"),
            ("model.dropout=0.5", "model.dropout"),
            ("train.precision=bf16", "train.precision"),
        ],
    )
    def test_what_makes_another_training_is_refused_by_name(
        self, directory: Path, finished: tuple[Path, str], python: Python, override: str, named: str
    ) -> None:
        done = python(*command(directory, finished[0].name, "train.epochs=9", override))
        assert done.returncode == 2
        assert named in done.stderr
        assert "run.resume=never" in done.stderr
        assert "Traceback" not in done.stderr
        assert "setting changed" not in done.stdout

    def test_never_moves_the_old_run_aside(self, directory: Path, finished: tuple[Path, str], python: Python) -> None:
        shutil.copytree(finished[0], directory / "again", symlinks=True)
        for number in (1, 2):
            done = python(*command(directory, "again", "run.resume=never", "train.max_steps=3"))
            assert done.returncode == 0, done.stderr
            assert (directory / f"again.old-{number}" / "checkpoints" / "latest" / "model.pt").exists()
        assert weights_hash(directory / "again.old-1") == weights_hash(finished[0])
        assert json.loads((directory / "again" / "status.json").read_text())["step"] == 3

    def test_a_run_starts_from_a_checkpoint_of_another(
        self, directory: Path, finished: tuple[Path, str], python: Python
    ) -> None:
        source = directory / "source"
        shutil.copytree(finished[0] / "checkpoints" / "step_00000018", source)
        for _ in range(2):
            done = python(*command(directory, "fork", f"run.resume={source}"))
            assert done.returncode == 0, done.stderr
            shutil.rmtree(source, ignore_errors=True)  # the second start continues from the run's own
        assert "nothing left to do" in done.stdout
        steps = [line["step"] for line in read_lines(directory / "fork" / "metrics.jsonl") if line["kind"] == "train"]
        assert steps == [STEPS]

    def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
        self, directory: Path, finished: tuple[Path, str], on_ranks: Ranks
    ) -> None:
        shutil.copytree(finished[0], directory / "damaged", symlinks=True)
        checkpoints = directory / "damaged" / "checkpoints"
        damage(checkpoints / "step_00000020")
        done = on_ranks(2, *command(directory, "damaged"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("step_00000020/model.pt: is damaged") == 1
        assert "continues at step 18" in done.stdout
        reason = checkpoints / "quarantine" / "step_00000020" / "reason.txt"
        assert "is damaged" in reason.read_text()
        assert weights_hash(directory / "damaged") == weights_hash(finished[0])
        assert timeless(directory / "damaged") == timeless(finished[0])

    def test_a_run_whose_checkpoints_are_all_damaged_is_refused(
        self, directory: Path, finished: tuple[Path, str], python: Python
    ) -> None:
        shutil.copytree(finished[0], directory / "ruined", symlinks=True)
        steps = sorted(path for path in (directory / "ruined" / "checkpoints").glob("step_*"))
        for place in steps:
            damage(place)
        done = python(*command(directory, "ruined"))
        assert done.returncode == 2
        assert all(f"{place / 'model.pt'}: is damaged" in done.stderr for place in steps)
        assert "run.resume=never" in done.stderr
        assert not (directory / "ruined" / "checkpoints" / "quarantine").exists()

    def test_to_go_back_is_another_run(self, finished: tuple[Path, str], directory: Path, python: Python) -> None:
        older = finished[0] / "checkpoints" / "step_00000018"
        done = python(*command(directory, finished[0].name, f"run.resume={older}"))
        assert done.returncode == 2
        assert "resumes from its newest checkpoint, step_00000020" in done.stderr

    def test_two_ranks_start_from_a_checkpoint_of_another(
        self, directory: Path, finished: tuple[Path, str], on_ranks: Ranks
    ) -> None:
        """The other run's best accuracy is not this one's, on either rank: else one would save and one would not."""
        source = finished[0] / "checkpoints" / "step_00000018"
        overrides = ("train.epochs=6", "optim.lr=0.0", f"run.resume={source}")
        done = on_ranks(2, *command(directory, "fork-2", *overrides), timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (directory / "fork-2" / "checkpoints" / "best").readlink().name == "step_00000020"

    def test_links_that_a_kill_left_behind_are_mended(
        self, directory: Path, finished: tuple[Path, str], python: Python
    ) -> None:
        shutil.copytree(finished[0], directory / "links", symlinks=True)
        best = (finished[0] / "checkpoints" / "best").readlink()
        for name in ("latest", "best"):
            (directory / "links" / "checkpoints" / name).unlink()
        done = python(*command(directory, "links"))
        assert done.returncode == 0, done.stderr
        assert (directory / "links" / "checkpoints" / "latest").readlink().name == "step_00000020"
        assert (directory / "links" / "checkpoints" / "best").readlink() == best

    def test_a_run_that_ends_at_a_checkpoint_of_a_longer_one_ends_once(
        self, directory: Path, finished: tuple[Path, str], python: Python
    ) -> None:
        shutil.copytree(finished[0], directory / "shorter", symlinks=True)
        shutil.rmtree(directory / "shorter" / "checkpoints" / "step_00000020")
        past = "nothing left to do: finished at step 18, past the 10 asked for: test accuracy"
        for steps, said in ((18, "done, 18 steps"), (10, past)):
            done = python(*command(directory, "shorter", f"train.max_steps={steps}"))
            assert said in done.stdout, done.stdout + done.stderr
        lines = read_lines(directory / "shorter" / "metrics.jsonl")
        assert [(line["step"], line["split"]) for line in lines if line["kind"] == "eval"][-2:] == [
            (18, "validation"),
            (18, "test"),
        ]

    def test_a_second_start_of_a_run_is_refused(
        self, directory: Path, finished: tuple[Path, str], python: Python
    ) -> None:
        with filelock.FileLock(finished[0] / "run.lock"):
            done = python(*command(directory, finished[0].name))
        assert done.returncode == 2
        assert "another process trains there" in done.stderr


class TestFullDisk:
    def run(self, directory: Path, python: Python, name: str, first: int, last: int) -> Any:
        full = {"DIST_TRAIN_TEST_FULL_FROM": str(first), "DIST_TRAIN_TEST_FULL_TO": str(last)}
        return python("tests/programs/on_a_full_disk.py", *command(directory, name)[2:], env=full)

    def test_a_run_goes_on_and_saves_when_there_is_room(self, directory: Path, python: Python) -> None:
        done = self.run(directory, python, "full", 4, 18)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("was not saved: No space left on device. The run continues") >= 7
        assert (directory / "full" / "checkpoints" / "latest").readlink().name == "step_00000020"

    def test_a_last_save_that_fails_fails_the_run(self, directory: Path, python: Python) -> None:
        done = self.run(directory, python, "full-at-last", 20, 20)
        assert done.returncode == 1
        assert "step_00000020: was not saved: No space left on device. It was the last one" in done.stderr
        assert "Traceback" not in done.stderr
        status = json.loads((directory / "full-at-last" / "status.json").read_text())
        assert (status["state"], status["resumable"]) == ("failed", True)
        done = python(*command(directory, "full-at-last"))
        assert done.returncode == 0, done.stderr
        assert "continues at step 18" in done.stdout
        status = json.loads((directory / "full-at-last" / "status.json").read_text())
        assert (status["state"], status["resumable"], status["attempt"]) == ("done", False, 2)


class TestEvaluate:
    def test_settings_may_be_overridden(self, finished: tuple[Path, str], python: Python) -> None:
        done = python("-m", "dist_train.evaluate", str(finished[0]), "--json", "data.limit_test=10")
        assert json.loads(done.stdout)["count"] == 10
        done = python("-m", "dist_train.evaluate", str(finished[0]), "model.name=lenet")
        assert done.returncode == 2
        assert "model.pt: is of another network" in done.stderr

    def test_splits_and_checkpoints(self, finished: tuple[Path, str], python: Python) -> None:
        lines = [line for line in read_lines(finished[0] / "metrics.jsonl") if line["kind"] == "eval"]
        for split, checkpoint in (("test", "latest"), ("validation", "best")):
            done = python(
                "-m", "dist_train.evaluate", str(finished[0]), "--split", split, "--checkpoint", checkpoint, "--json"
            )
            assert done.returncode == 0, done.stderr
            result = json.loads(done.stdout)
            same = [line for line in lines if (line["split"], line["step"]) == (split, result["step"])]
            assert [(line["correct"], line["count"]) for line in same] == [(result["correct"], result["count"])]

    def test_what_is_not_there_is_named(self, directory: Path, finished: tuple[Path, str], python: Python) -> None:
        for arguments, said in (
            ([str(directory / "nowhere")], "nowhere"),
            ([str(finished[0]), "--checkpoint", "7"], "step_00000007"),
            ([str(finished[0]), "--checkpoint", "bset"], "bset"),
        ):
            done = python("-m", "dist_train.evaluate", *arguments)
            assert done.returncode == 2
            assert said in done.stderr
            assert "Traceback" not in done.stderr


class TestFailures:
    def test_the_traceback_of_a_rank_is_shown(self, directory: Path, torchrun: Ranks) -> None:
        done = torchrun(2, "tests/programs/fails.py", *command(directory, "fails")[2:])
        assert done.returncode == 1
        assert "ZeroDivisionError: rank 1 fails on purpose" in done.stdout + done.stderr
        assert "in failing_step" in done.stdout + done.stderr

    def test_a_failure_of_rank_0_is_in_the_status(self, directory: Path, python: Python) -> None:
        done = python("tests/programs/fails.py", *command(directory, "fails-alone")[2:])
        assert done.returncode == 1
        assert "ZeroDivisionError: rank 0 fails on purpose" in done.stderr
        assert json.loads((directory / "fails-alone" / "status.json").read_text())["state"] == "failed"


def short_runs(directory: Path, launcher: Ranks, number: int) -> None:
    for attempt in range(number):
        overrides = ("train.max_steps=2", "log.tensorboard=false", "run.resume=never")
        done = launcher(2, *command(directory, "short", *overrides))
        assert done.returncode == 0, f"run {attempt}: {done.stdout}{done.stderr}"


def test_short_runs_exit_with_0(directory: Path, on_ranks: Ranks) -> None:
    short_runs(directory, on_ranks, 5)


@pytest.mark.long
def test_a_hundred_short_runs_exit_with_0(directory: Path, torchrun: Ranks) -> None:
    short_runs(directory, torchrun, 100)


def kill_after_a_checkpoint(arguments: list[str], run: Path) -> None:
    """Start two ranks and SIGKILL rank 0 inside the second epoch, where it has neither logged nor saved just now."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    slow = {**os.environ, "PYTHONPATH": str(ROOT), "DIST_TRAIN_TEST_SLEEP": "0.1"}
    process = subprocess.Popen(
        [*launcher, "tests/programs/slowly.py", *arguments[2:]],
        env=slow,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 90
    while not (run / "checkpoints" / "step_00000008").exists():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.15)
    os.kill(json.loads((run / "status.json").read_text())["pid"], signal.SIGKILL)
    assert process.wait(60) != 0


def damage(checkpoint: Path) -> None:
    """Turn one bit of the weights."""
    content = bytearray((checkpoint / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / "model.pt").write_bytes(content)


def timeless(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics without what is a matter of time."""
    lines = read_lines(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in ("time", "samples_per_second")} for line in lines]


def curve(run: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tb"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.mark.parametrize(("splits", "split"), [(("train", "val"), "validation"), (("train", "val", "test"), "test")])
def test_the_last_line_of_a_run_is_a_command_that_works(
    tmp_path: Path, python: Python, splits: tuple[str, ...], split: str
) -> None:
    """Of a run without a test split too, it evaluates what the training has evaluated at its end."""
    for name in (f"{each}/{label}" for each in splits for label in ("a", "b")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (16, 16), 60 * number).save(tmp_path / "data" / name / f"{number}.png")
    data = f"data: {{name: image_folder, root: {tmp_path / 'data'}, global_batch: 4, cache: {tmp_path / 'cache'}}}"
    (tmp_path / "small.yaml").write_text(SMALL.replace(SMALL.splitlines()[1], data))
    done = python("-m", "dist_train", str(tmp_path / "small.yaml"), f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1].partition("evaluate: python ")[2].split()
    evaluated = python(*command)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f": {split} accuracy " in evaluated.stdout
