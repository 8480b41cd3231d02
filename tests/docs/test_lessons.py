"""The lessons: each command of their page runs as it is printed, in order, and reaches the scores that are stated."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Python
from tests.docs.test_docs import as_run

LESSONS = ROOT / "configs" / "lessons"
PAGE = LESSONS / "README.md"
RECIPES = sorted(LESSONS.glob("*.yaml"))
SECTION = re.compile(r"^## (.*?)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
QUICK = {"A line", "Prices of houses", "Data of your own"}
"""Sections that `make test` runs; the others take minutes."""
NEEDS_DATA = ("mnist", "cifar10")


def list_commands(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]


SECTIONS = {title: list_commands(text) for title, text in SECTION.findall(PAGE.read_text())}


def run_command(command: str, folder: Path, python: Python) -> str:
    """Run a command as a shell would; returns what it prints."""
    words = shlex.split(command)
    env = dict(word.split("=", 1) for word in words if re.fullmatch(r"[A-Z_]+=.*", word))
    words = [word for word in words if word.partition("=")[0] not in env]
    found = [sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else [word]
             for word in words]  # fmt: skip
    arguments = as_run(shlex.join(word for each in found for word in each), short=[])
    assert arguments is not None
    done = python(*arguments, cwd=folder, env=env, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def read_evaluation(run: Path) -> dict[str, Any]:
    """The last evaluation of a run."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    *_, last = (line for line in lines if line["kind"] == "eval")
    return dict(last)


@pytest.mark.parametrize(
    "title",
    [
        pytest.param(title, marks=pytest.mark.slow if title in QUICK else pytest.mark.long)
        for title, commands in SECTIONS.items()
        if commands
    ],
)
def test_the_commands_of_a_lesson_run(title: str, tmp_path: Path, python: Python) -> None:
    if (
        any(name in command for name in NEEDS_DATA for command in SECTIONS[title])
        and "DIST_TRAIN_DATA" not in os.environ
    ):
        pytest.skip("MNIST and CIFAR-10 are found by $DIST_TRAIN_DATA, which is not set")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    printed = [run_command(command, tmp_path, python) for command in SECTIONS[title]]
    check = CHECKS.get(title)
    if check is not None:
        check(tmp_path, printed)


def check_line(folder: Path, printed: list[str]) -> None:
    weight, bias = re.findall(r"tensor\(\[+(.*?)\]", printed[1])
    assert (round(float(weight), 3), round(float(bias), 3)) == (2.997, 2.103)
    for name in ("line", "line_mse", "line_tanh"):
        found = read_evaluation(folder / "runs" / name)
        assert found["r2"] >= 0.95
        assert found["rmse"] < 0.1
        assert found["mae"] < 0.1
        assert found["count"] == 100


def check_housing(folder: Path, printed: list[str]) -> None:  # noqa: ARG001
    assert read_evaluation(folder / "runs" / "housing")["r2"] >= 0.35


CHECKS = {"A line": check_line, "Prices of houses": check_housing}
