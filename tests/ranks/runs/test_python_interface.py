"""A script that trains, evaluates and loads the network, under `python`, torchrun, and in a notebook's cell."""

import json
from pathlib import Path

import pytest

from tests.conftest import Python, Ranks

pytestmark = pytest.mark.slow
SCRIPT = """
import json, os, sys
import torch
from dist_train import evaluate, load_config, load_model, train

folder = sys.argv[1]
small = ["data.limit_train=96", "data.limit_test=40", "train.epochs=2", "distributed.backend=gloo"]
results = []
for name, seed in (("a", 0), ("b", 1), ("a", 0)):
    result = train(load_config("digits", [*small, f"run.dir={folder}/{name}", f"run.seed={seed}"]))
    assert evaluate(result.run_dir).to_dict()["correct"] == result.evaluations["test"]["correct"]
    results.append([result.is_done, result.step, result.evaluations["test"]["correct"]])
model = load_model(f"{folder}/a")
with open(f"{folder}/{os.environ.get('RANK', 0)}.json", "w") as file:
    json.dump(results, file)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def read(folder: Path, rank: int) -> list[list[int]]:
    found: list[list[int]] = json.loads((folder / f"{rank}.json").read_text())
    return found


@pytest.mark.parametrize("ranks", [2, *(pytest.param(ranks, marks=pytest.mark.long) for ranks in (1, 3))])
def test_a_script_under_torchrun(script: Path, torchrun: Ranks, ranks: int) -> None:
    done = torchrun(ranks, str(script), str(script.parent))
    assert done.returncode == 0, done.stdout + done.stderr
    found = [read(script.parent, rank) for rank in range(ranks)]
    assert all(each == found[0] for each in found)
    assert [row[:2] for row in found[0]] == [[True, 6]] * 3
    assert found[0][0] == found[0][2]


def test_a_script_under_python(script: Path, interpreter: Python) -> None:
    done = interpreter(str(script), str(script.parent))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row[:2] for row in read(script.parent, 0)] == [[True, 6]] * 3


@pytest.mark.long
def test_an_error_ends_every_rank_of_a_script(tmp_path: Path, torchrun: Ranks) -> None:
    """As an exception of the script, so that it may end with another code, and without a wait for a limit of time."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom dist_train import load_config, train\nfrom dist_train.errors import UserError\n"
        "settings = ['data.limit_train=1', 'data.validation=0.5', 'distributed.backend=gloo']\n"
        f"config = load_config('digits', [*settings, 'run.dir={tmp_path}/run'])\n"
        "try:\n    train(config)\nexcept UserError as error:\n    first = error\n"
        "try:\n    train(config)\nexcept UserError as error:\n    print('then:', error, flush=True)\n"
    )
    done = torchrun(2, str(script), timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("then: the ranks have parted after the error of an earlier call") == 2
