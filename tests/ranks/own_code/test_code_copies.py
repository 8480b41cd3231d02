"""A run keeps the user's code: evaluations use it, a resume uses today's, and both say what has changed."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Python, Ranks

pytestmark = pytest.mark.slow

CONFIG = """
data: {name: synthetic, num_train: 64, num_test: 32, global_batch: 16}
model: {name: "code/nets.py:Net", args: {width: 8}}
optim: {name: sgd, lr: 0.05}
train: {max_steps: 4}
checkpoint: {every_steps: 2}
distributed: {backend: gloo}
"""
NETS = """
from layers_of_mine import Last
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.LazyLinear(width)
        self.last = Last(width)

    def forward(self, inputs):
        return self.last(self.first(inputs.flatten(1)).relu())
"""
LAYERS = """
from torch import nn
print("layers 1")
factor = 1

class Last(nn.Linear):
    def __init__(self, width):
        super().__init__(width, 10)

    def forward(self, inputs):
        return factor * super().forward(inputs)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a settings file and a network in two modules."""
    tmp_path.joinpath("code").mkdir()
    tmp_path.joinpath("a.yaml").write_text(CONFIG)
    tmp_path.joinpath("code/nets.py").write_text(NETS)
    tmp_path.joinpath("code/layers_of_mine.py").write_text(LAYERS)
    return tmp_path


def change(folder: Path) -> None:
    """Change the code so that a network with the same weights gives the opposite output."""
    text = LAYERS.replace("layers 1", "layers 2").replace("factor = 1", "factor = -1")
    folder.joinpath("code/layers_of_mine.py").write_text(text)


def evaluate(python: Python, folder: Path, *arguments: str) -> tuple[dict[str, object], str, str]:
    """Evaluate from another directory; return the result, and all of both outputs."""
    done = python("-m", "dist_train.evaluate", str(folder / "run"), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout, done.stderr


def test_an_evaluation_uses_the_code_of_the_run(folder: Path, python: Python, on_ranks: Ranks) -> None:
    train = ("-m", "dist_train", "a.yaml", f"run.dir={folder}/run")
    done = python(*train, cwd=folder)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((folder / "run/code/manifest.json").read_text())
    assert sorted(manifest["files"]) == ["layers_of_mine.py", "nets.py"]
    result, output, errors = evaluate(python, folder)
    assert "has changed" not in errors
    change(folder)
    again, output, errors = evaluate(python, folder)
    assert again == result
    assert "layers 1" in output
    assert "layers 2" not in output
    assert f"it has changed since in {folder}/code/layers_of_mine.py" in errors
    for name in ("nets.py", "layers_of_mine.py"):
        folder.joinpath("code", name).unlink()
    two = on_ranks(2, "-m", "dist_train.evaluate", str(folder / "run"), "--json")
    assert two.returncode == 0, two.stderr
    (printed,) = (line for line in two.stdout.splitlines() if line.startswith("{"))  # beside what her code prints
    assert json.loads(printed) == result
    verified = python("-m", "launch", "ckpt", "verify", str(folder / "run"))
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_resume_uses_the_code_of_today_and_says_what_has_changed(folder: Path, python: Python) -> None:
    train = ("-m", "dist_train", "a.yaml", f"run.dir={folder}/run")
    assert python(*train, "train.max_steps=2", cwd=folder).returncode == 0
    same = python(*train, "train.max_steps=3", cwd=folder)
    assert "your code has changed" not in same.stdout + same.stderr
    change(folder)
    folder.joinpath("code").rename(folder / "moved")
    done = python(*train, "model.name=moved/nets.py:Net", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "layers 2" in done.stdout
    assert "your code has changed since the checkpoint: layers_of_mine.py" in done.stdout + done.stderr
    assert "layers 2" in folder.joinpath("run/code/layers_of_mine.py").read_text()
    assert "layers 1" in folder.joinpath("run/code.old-1/layers_of_mine.py").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("command", [("dist_train.evaluate",), ("launch", "ckpt", "verify")])
def test_the_code_of_another_user_runs_only_if_it_is_trusted(
    folder: Path, python: Python, command: tuple[str, ...]
) -> None:
    assert python("-m", "dist_train", "a.yaml", f"run.dir={folder}/run", cwd=folder).returncode == 0
    os.chown(folder / "run/code/layers_of_mine.py", 1234, -1)
    refused = python("-m", *command, str(folder / "run"))
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
    assert "layers 1" not in refused.stdout
    assert f"  {folder}/run/code/layers_of_mine.py\n" in refused.stderr
    assert "add --trust-code" in refused.stderr
    trusted = python("-m", *command, str(folder / "run"), "--trust-code")
    assert (trusted.returncode, "layers 1" in trusted.stdout) == (0, True), trusted.stderr
    assert f"{folder}/run/code/layers_of_mine.py" in trusted.stdout + trusted.stderr


def test_ranks_with_different_code_are_refused(folder: Path, on_ranks: Ranks) -> None:
    """Each machine may have its own copy of the files, such as one that was not updated."""
    starts = (
        "import os, runpy, sys\n"
        "import dist_train.own_code.copies as copies\n"
        "real = copies.read_bytes\n"
        "copies.read_bytes = lambda path: real(path) + b'#' * int(os.environ['RANK'])\n"
        "import dist_train.__main__ as main\n"
        "main.start(sys.argv[1:])\n"
    )
    done = on_ranks(2, "-c", starts, str(folder / "a.yaml"), f"run.dir={folder}/run")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "SHA-256 of nets.py" in done.stderr
    assert not folder.joinpath("run").exists()


def test_an_exception_in_a_step_is_shown_as_hers_on_its_rank(folder: Path, on_ranks: Ranks) -> None:
    broken = NETS.replace(
        "    def forward(self, inputs):\n",
        "    calls = 0\n\n    def forward(self, inputs):\n"
        "        if self.training and self.is_late():\n            raise ValueError('too much\\x1b')\n",
    )
    broken += (
        "\n    def is_late(self):\n        import os\n        Net.calls += 1\n"
        "        return Net.calls > 8 and os.environ['RANK'] == '1'\n"
    )
    folder.joinpath("code/nets.py").write_text(broken)
    done = on_ranks(
        2, "-m", "dist_train", str(folder / "a.yaml"), f"run.dir={folder}/run", "train.max_steps=30", timeout=90
    )
    assert done.returncode == 1, done.stderr
    assert "exception: your code failed after 6 steps, on rank 1: ValueError: too much\\x1b\n" in done.stderr
    assert f'File "{folder}/code/nets.py", line ' in done.stderr
    assert "train.py" not in done.stderr
