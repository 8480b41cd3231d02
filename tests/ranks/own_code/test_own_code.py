"""The user's code in whole commands: messages about bad input, and that runs keep their promises."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from dist_train.monitoring import ledger, ledger_comparison
from dist_train.monitoring.metrics import read_lines
from tests.conftest import Python, Ranks, weights_hash

pytestmark = pytest.mark.slow

CONFIG = """
data: {name: synthetic, num_train: 90, num_test: 40, global_batch: 30, augment: {crop_padding: 2}}
model:
  name: own/nets.py:Net
  args: {width: 4}
loss: {name: cross_entropy, args: {label_smoothing: 0.1}}
optim: {name: sgd, lr: 0.05, momentum: 0.9}
train: {epochs: 4, ema_decay: 0.8}
checkpoint: {every_steps: 2, split: test}
distributed: {backend: gloo, threads: 1}
log: {every_steps: 1, tensorboard: false}
"""
LAYERS = """
from torch import nn

def block(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.2))
"""
NETS = """
import random
import torch
from torch import nn
from layers import block


class Net(nn.Module):
    def __init__(self, width, classes=10, *, depth: int = 1):
        super().__init__()
        self.first = nn.LazyLinear(width)
        self.blocks = nn.Sequential(*(block(width, width) for _ in range(depth)))
        self.last = nn.Linear(width, classes)

    def forward(self, images):
        return self.last(self.blocks(self.first(images.flatten(1)).relu()))


def make(width):
    return Net(width)


small = Net
number = 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Settings, and a network in a folder beside them."""
    tmp_path.joinpath("a.yaml").write_text(CONFIG)
    tmp_path.joinpath("own").mkdir()
    tmp_path.joinpath("own", "nets.py").write_text(NETS)
    tmp_path.joinpath("own", "layers.py").write_text(LAYERS)
    return tmp_path


def command(project: Path, *overrides: str) -> list[str]:
    return ["-m", "dist_train", str(project / "a.yaml"), f"run.dir={project / 'run'}", *overrides]


# Faults that the source shows: these commands end before torch is imported.
SEEN_IN_THE_SOURCE = {
    "model.name=own/nowhere.py:Net": "own/nowhere.py can't be read: No such file or directory",
    "model.name=own.nets:Nett": "own.nets has no Nett; did you mean Net?",
    "model.name=own/nets.py:Nett": "own/nets.py has no Nett; did you mean Net?",
    "model.name=own/nets.py:block2": "own/nets.py has no block2; did you mean block?",
    "model.args.widht=3": "model.args.widht: Net in own/nets.py has no argument widht; did you mean width?",
    "model.args.zzz=3": "model.args.zzz: Net in own/nets.py has no argument zzz; it takes width, classes, depth",
    "model.args={}": "Net in own/nets.py needs the argument width; add it to args",
    "model.args=3": "model.args is 3; it must be a mapping of arguments",
    "model.args=[1]": "model.args is [1]; it must be a mapping of arguments",
    "model.name=own/nets:Net": "model.name is 'own/nets:Net'",
    "model.name=nets.py": "model.name is 'nets.py'",
    "model.dropout=0.5": "model.dropout is not a setting",
}


@pytest.mark.parametrize("override", SEEN_IN_THE_SOURCE)
def test_a_fault_that_the_source_shows_ends_a_command_before_torch_is_imported(
    project: Path, interpreter: Python, override: str
) -> None:
    starts = "import sys; sys.modules['torch'] = None; from dist_train.__main__ import start; start(sys.argv[1:])"
    _, _, *arguments = command(project, override)
    done = interpreter("-c", starts, *arguments, cwd=project)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    place = f"{project}/a.yaml:4" if override == "model.args={}" else f"command line: {override}"
    assert done.stderr.startswith(f"{place}: ")
    assert SEEN_IN_THE_SOURCE[override] in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (project / "run").exists()


# What only the import shows: other sources of own/nets.py, the exit code, and words of the message.
SOURCES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "no such module": ("import nowhere_at_all\n" + NETS, 1, ("the import of", "line 1", "No module named 'nowhere_at")),
    "no such name": ("from layers import blokc\n" + NETS, 1, ("cannot import name 'blokc' from 'layers'",)),
    "a syntax error": ("class Net(:\n", 1, ('nets.py", line 1', "SyntaxError: invalid syntax")),
    "indentation": ("class Net:\npass\n", 1, ('nets.py", line 2', "IndentationError")),
    "it imports itself": ("from nets import Net as Other\n" + NETS, 1, ("line 1", "cannot import name 'Net'")),
    "an exit": ("raise SystemExit(0)\n" + NETS, 1, ("the import of", "SystemExit: 0")),
    "a constant": ("Net = 3\n", 2, ("is a int, and no class or function",)),
    "no network": ("def Net(width): return [width]\n", 2, ("gives a list, and no torch.nn.Module",)),
    "a decorated class": (
        "def same(f): return f\n@same\nclass Net:\n    def __init__(self, height): ...\n", 2,
        ("Net in", "has no argument width; it takes height"),
    ),
    "nothing to train": ("from torch import nn\ndef Net(width): return nn.ReLU()\n", 2, ("no parameter to train",)),
    "its constructor": (NETS.replace("self.first =", "1 / 0 #"), 1, ("model.name", "nets.py:Net failed:", "in __init__",
                                                                     "ZeroDivisionError")),
    "its pass": (NETS.replace("images.flatten", "images.flaten"), 1,
                 ("a pass over the first sample failed", "in forward", "AttributeError: 'Tensor' object has no")),
}  # fmt: skip


def check_words(output: str, words: tuple[str, ...]) -> None:
    for word in words:
        assert word in output
    frames = [line for line in output.splitlines() if line.strip().startswith("File ")]
    assert not frames or 'nets.py", line' in frames[0], "the first frame is not hers"
    assert not any("dist_train/" in line or "importlib" in line for line in frames)


@pytest.mark.parametrize("case", SOURCES)
def test_a_fault_that_the_import_shows_ends_a_command_and_leaves_nothing(
    project: Path, python: Python, case: str
) -> None:
    source, code, words = SOURCES[case]
    project.joinpath("own", "nets.py").write_text(source)
    done = python(*command(project), cwd=project)
    assert done.returncode == code, done.stdout + done.stderr
    check_words(done.stderr, words)
    assert ("Traceback" in done.stderr or "SyntaxError" in done.stderr or "Indentation" in done.stderr) == (code == 1)
    assert not (project / "run").exists()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("own.net:Net", "model.name own.net:Net: there is no module own.net; is it installed, or in PYTHONPATH?"),
        ("own:nets", "model.name own:nets: own has no nets"),
        ("own:Net", "model.name own:Net: own has no Net"),
        ("own/nets.py:Net.forwrd", "own/nets.py:Net.forwrd: own/nets.py has no forwrd; did you mean forward?"),
    ],
)
def test_a_name_that_only_the_import_looks_up(project: Path, python: Python, reference: str, message: str) -> None:
    done = python(*command(project, f"model.name={reference}"), cwd=project)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert not (project / "run").exists()


@pytest.mark.parametrize("case", ["no such module", "a constant", "its pass"])
def test_two_ranks_say_it_once(project: Path, on_ranks: Ranks, case: str) -> None:
    source, _, words = SOURCES[case]
    project.joinpath("own", "nets.py").write_text(source)
    done = on_ranks(2, *command(project), timeout=90)
    assert done.returncode == 1  # torchrun's own
    assert done.stderr.count(words[-1]) == 1
    check_words(done.stderr, words)
    assert not (project / "run").exists()


@pytest.mark.parametrize(
    "name", ["torch.py", "random.py", "yaml.py", "typing.py", "dist_train.py", "my.nets.py", "größe 1.py"]
)
def test_files_called_like_modules_harm_nothing(project: Path, python: Python, name: str) -> None:
    for other in ("torch.py", "random.py", "numpy.py"):
        project.joinpath("own", other).write_text("raise RuntimeError('must not replace a module')\n")
    project.joinpath("own", name).write_text(NETS)
    done = python(*command(project, f"model.name=own/{name}:Net", "train.epochs=1"), cwd=project)
    assert done.returncode == 0, done.stderr


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_lines(run / "metrics.jsonl") if line["kind"] == "train"]


def test_one_and_two_ranks_have_the_same_losses(project: Path, python: Python, on_ranks: Ranks) -> None:
    # Dropout draws for each shard, so its masks follow the number of ranks.
    project.joinpath("own", "layers.py").write_text(LAYERS.replace("0.2", "0.0"))
    one, two = project / "one", project / "two"
    assert python(*command(project, f"run.dir={one}")[:3], f"run.dir={one}").returncode == 0
    done = on_ranks(2, *command(project)[:3], f"run.dir={two}")
    assert done.returncode == 0, done.stderr
    assert len(losses(one)) == 12
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)


def test_a_run_that_is_killed_ends_with_the_same_bits_and_is_evaluated_when_the_code_is_gone(
    project: Path, python: Python
) -> None:
    whole, run = project / "whole", project / "run"
    assert python(*command(project)[:3], f"run.dir={whole}").returncode == 0
    source = NETS.replace("def forward(self, images):", KILL)
    for step in (3, 8):
        project.joinpath("own", "nets.py").write_text(source)
        done = python(*command(project), env={"KILL_AT": str(step)})
        assert done.returncode == -signal.SIGKILL, done.stderr
    project.joinpath("own", "nets.py").write_text(NETS)
    done = python(*command(project))
    assert done.returncode == 0, done.stderr
    assert "own/nets.py" in done.stdout + done.stderr, "nothing says that the code has changed"
    assert weights_hash(run) == weights_hash(whole)
    first, second = (ledger.read(each / "ledger.jsonl") for each in (run, whole))
    assert ledger_comparison.compare(first, second, tuple(ledger_comparison.PHASES)).divergence is None

    shutil.rmtree(project / "own")
    before = [line for line in read_lines(run / "metrics.jsonl") if line["kind"] == "eval"][-1]
    done = python("-m", "dist_train.evaluate", str(run), "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["correct"] == before["correct"]
    done = python("-m", "dist_train.training.verification", str(run), cwd=project)
    assert (done.returncode, "undamaged" in done.stdout) == (0, True), done.stdout + done.stderr


KILL = """def forward(self, images):
        if self.training:
            import os, signal
            Net.passes = getattr(Net, "passes", 0) + 1
            if Net.passes == int(os.environ["KILL_AT"]):
                os.kill(os.getpid(), signal.SIGKILL)
        return self.passed(images)

    def passed(self, images):"""
