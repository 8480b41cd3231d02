"""The drill: it finds what is the same, and what is not."""

import json
from pathlib import Path

import pytest

from dist_train.settings.loader import load_config
from launch.drill.drill import Drill
from launch.drill.faults import FAULTS
from launch.drill.training_process import TrainingProcess
from tests.conftest import Python

SMALL = """
data: {name: synthetic, num_train: 320, num_test: 32, global_batch: 16, augment: {crop_padding: 2}}
model: {name: mnist_cnn, dropout: 0.2}
optim: {name: sgd, lr: 0.02, momentum: 0.9}
train: {epochs: 6}
distributed: {backend: gloo}
checkpoint: {every_steps: 5}
log: {every_steps: 20, tensorboard: false}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def drill(python: Python, config: Path, *options: str, timeout: float = 240) -> tuple[int, str, str]:
    where = (str(config), f"run.dir={config.parent / 'small'}")
    done = python("-m", "launch", "drill", *where, *options, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_drill_strikes_recovers_and_compares(config: Path, python: Python) -> None:
    faults = ["kill-in-save", "corrupt-latest", "disk-full", "nan"]
    code, said, errors = drill(python, config, "--rounds", "4", "--faults", ",".join(faults))
    assert code == 0, said + errors
    *_, last = said.splitlines()
    assert last == "4 passed, 0 failed"
    result = json.loads((config.parent / "small.drill" / "drill.json").read_text())
    assert [each["fault"] for each in result["rounds"]] == faults
    assert all(each["verdict"] == "same weights" for each in result["rounds"])
    assert (config.parent / "small.drill" / "undisturbed_elastic" / "status.json").exists()
    assert not (config.parent / "small").exists()


@pytest.mark.long
def test_every_fault_twice(config: Path, python: Python) -> None:
    code, said, errors = drill(python, config, "--rounds", str(2 * len(FAULTS)), "--seed", "1", timeout=600)
    assert code == 0, said + errors
    assert "under bitwise same weights" in said


@pytest.mark.slow
def test_a_run_that_ends_otherwise_fails_the_round(config: Path) -> None:
    """What the drill compares, with a run of another seed in the place of a struck one."""
    undisturbed, other = (
        TrainingProcess(str(config), [f"run.seed={seed}"], config.parent / str(seed), 0) for seed in (1, 2)
    )
    for run in (undisturbed, other):
        run.start(1)
        assert run.wait_for_exit() == 0, run.output()
    made = Drill(load_config(config), str(config), (), 1)
    assert made._find_difference(undisturbed, undisturbed, "kill", "elastic") is None
    found = made._find_difference(other, undisturbed, "kill", "elastic")
    assert found is not None
    assert "parts from the undisturbed run at step 1 in data" in found
    assert made._find_difference(other, undisturbed, "resize", "elastic") == found
    (other.directory.ledger).write_bytes(undisturbed.directory.ledger.read_bytes())
    assert "weights" in str(made._find_difference(other, undisturbed, "kill", "elastic"))


@pytest.mark.slow
def test_a_run_that_fails_by_itself_is_shown(config: Path, python: Python) -> None:
    config.write_text(f"data: {{name: image_folder, root: {config.parent}/none}}\nmodel: {{name: resnet18}}\n")
    code, _, errors = drill(python, config, "--rounds", "1")
    assert code == 1
    assert "the undisturbed run ended with exit code 2:" in errors
    assert "Traceback" not in errors
