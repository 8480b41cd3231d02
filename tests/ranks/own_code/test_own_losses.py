"""Losses and targets that do not fit: a message that names both sides, exit 2; or the traceback of the user's code."""

import re
from pathlib import Path

import pytest

from tests.conftest import Python, Ranks

pytestmark = pytest.mark.slow

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs=3, form="tensor"):
        super().__init__()
        self.layer = nn.Linear(4, outputs)
        self.form = form

    def forward(self, inputs):
        output = self.layer(inputs)
        if self.form == "dict":
            return {"logits": output, "loss": output.square().mean()}
        return output.squeeze(1) if self.form == "flat" else output

class Points:
    def __init__(self, split, target="label", bad=None):
        self.split, self.target, self.bad = split, target, bad

    def __len__(self):
        return 40

    def __getitem__(self, index):
        inputs = torch.randn(4)
        if index == self.bad:
            return inputs, 7
        targets = {
            "label": index % 3, "number": float(index), "numbers": torch.randn(2), "far": 3, "negative": -100,
            "text": "cat", "column": torch.randn(1), "complex": 1j * index,
        }
        return inputs, targets[self.target]

def text(output, target):
    return "good"

def nothing(output, target):
    pass

def number(output, target):
    return 0.5

def integers(output, target):
    return (output.argmax(1) == target).sum()

def detached(output, target):
    return output.detach().square().mean()

def table(output, target):
    return output.square()

def not_a_number(output, target):
    return (output * float("nan")).mean()

def raises(output, target):
    return output @ target.nowhere

def three(output, target, extra):
    return output.mean()

def one(output):
    return output.mean()

later = 0

def raises_later(output, target):
    global later
    later += 1
    if later > 6:
        raise ZeroDivisionError("now")
    return output.square().mean()

constant = 3

def make_without_gradients():
    torch.set_grad_enabled(False)
    return Net()
"""
SETTINGS = """
data: {name: "own.py:Points", global_batch: 10}
model: {name: "own.py:Net"}
optim: {name: sgd, lr: 0.01}
train: {max_steps: 8}
checkpoint: {split: test}
log: {tensorboard: false}
"""
BOTH = r"output is float32 \[\d+, 3\] and the target "
CASES: dict[str, tuple[str, int, str]] = {
    "text": ("loss=own.py:text", 2, r"loss \S*own.py:text \(line \d+\): returns a str"),
    "nothing": ("loss=own.py:nothing", 2, "returns a NoneType"),
    "number": ("loss=own.py:number", 2, "returns a float"),
    "integers": ("loss=own.py:integers", 2, r"returns int64 \[\]"),
    "detached": ("loss=own.py:detached", 2, "has no gradient"),
    "gradients turned off": ("model.name=own.py:make_without_gradients", 2, "model: torch computes no gradients"),
    "table": ("loss=own.py:table", 2, r"returns float32 \[\d+, 3\]"),
    "not a number, later": ("loss=own.py:not_a_number", 2, "is nan for the samples of the first step"),
    "raises": ("loss=own.py:raises", 1, "AttributeError: 'Tensor' object has no attribute 'nowhere'"),
    "three": ("loss=own.py:three", 2, "three in .*own.py needs the argument extra; add it to args"),
    "one": ("loss=own.py:one", 2, "one in .*own.py takes 1 arguments, not 2"),
    "constant": ("loss=own.py:constant", 2, "is a int"),
    "missing": ("loss=own.py:txt", 2, "has no txt; did you mean text?"),
    "raises later": ("loss=own.py:raises_later", 1, "ZeroDivisionError: now"),
    "far label": ("data.args.target=far", 2, "labels from 3 to 3, but the output has 3 classes, 0 to 2"),
    "negative label": ("data.args.target=negative", 2, "ignore_index=-100 leaves out such labels"),
    "far label later": ("data.args.bad=33", 2, r"labels from \d to 7, but the output has 3 classes, 0 to 2"),
    "numbers as labels": ("data.args.target=number", 2, BOTH + r"float\d+ \[\d+\]"),
    "tables as labels": ("data.args.target=numbers", 2, BOTH + r"float32 \[\d+, 2\]"),
    "text as labels": ("data.args.target=text", 2, "target"),
    "numbers of another shape": ("task=regression data.args.target=numbers", 2, BOTH + r"float32 \[\d+, 2\]"),
    "complex numbers": ("task=regression model.args.outputs=1 data.args.target=complex", 2, "complex"),
    "labels of another shape": ("task=multilabel", 2, BOTH + r"int64 \[\d+\]"),
    "a dict": ("model.args.form=dict", 2, "a dict with logits, loss.*loss.output=NAME"),
    "no such field": (
        "model.args.form=dict loss.output=logit",
        2,
        "loss.output is logit, but the network's output is a dict",
    ),
    "no such loss": ("model.args.form=dict loss=output.lss loss.output=logits", 2, "lss"),
    "few classes later": ("model.args.outputs=2", 2, r"labels from \d to 2, but the output has 2 classes"),
    "weights of another length": ("loss.args.weight=[1,2]", 2, "loss.args.weight has 2 numbers, but the output has 3"),
    "a large k": ("metrics=[top5]", 2, "3 classes only"),
}
GOOD = {
    "numbers": "task=regression model.args.outputs=1 model.args.form=flat data.args.target=number",
    "a column": "task=regression model.args.outputs=1 data.args.target=column",
    "its own loss": "model.args.form=dict loss=output.loss loss.output=logits",
    "ignored": "data.args.target=label loss.args.ignore_index=2 metrics=[accuracy,macro_f1]",
}


def settings(tmp_path: Path, overrides: str) -> list[str]:
    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "run.yaml").write_text(SETTINGS)
    given = [each.replace("=own.py:", f"={tmp_path}/own.py:") for each in overrides.split()]
    return [str(tmp_path / "run.yaml"), f"run.dir={tmp_path / 'run'}", *given]


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit(tmp_path: Path, python: Python, name: str) -> None:
    overrides, code, words = CASES[name]
    done = python("-m", "dist_train", *settings(tmp_path, overrides), timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert re.search(words, done.stderr, re.DOTALL), done.stderr
    assert "dist_train/" not in done.stderr.replace("dist_train/own", ""), done.stderr
    assert (tmp_path / "run" / "checkpoints").exists() == ("later" in name)


@pytest.mark.parametrize("name", GOOD)
def test_what_fits(tmp_path: Path, python: Python, name: str) -> None:
    done = python("-m", "dist_train", *settings(tmp_path, GOOD[name]), timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["text", "raises", "raises later", "far label later"])
def test_all_ranks_leave(tmp_path: Path, on_ranks: Ranks, name: str) -> None:
    """With 1, as a launcher makes of any exit code."""
    overrides, _, words = CASES[name]
    done = on_ranks(2, "-m", "dist_train", *settings(tmp_path, overrides), timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(words, done.stderr, re.DOTALL), done.stderr
