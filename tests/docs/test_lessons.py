"""The lessons: each command of their page runs as it is printed, in order, and reaches the scores that are stated."""

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.data import open_dataset
from dist_train.distributed.world import World
from dist_train.settings.loader import load_config
from tests.conftest import ROOT, Python
from tests.docs.test_docs import as_run

LESSONS = ROOT / "configs" / "lessons"
PAGE = (LESSONS / "README.md").read_text()
RECIPES = sorted(LESSONS.glob("*.yaml"))
SECTION = re.compile(r"^## (.*?)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
OURS = re.compile(r"`((?:[A-Z_]+=\S+ )?(?:dist-train|python) .*?)`")
QUICK = {"A line", "Prices of houses", "Data of your own"}
"""Sections that `make test` runs; the others take minutes."""
WITH_DATA = ("mnist_", "cifar10_", "finetune")
"""Names of recipes that need files, or beginnings of these."""


def list_commands(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


SECTIONS = {title: commands for title, text in SECTION.findall(PAGE) if (commands := list_commands(text))}


def needs_data(command: str) -> bool:
    return any(name in command for name in WITH_DATA) and "data.name=synthetic" not in command


def run_command(command: str, folder: Path, python: Python) -> str:
    """Run a command as a shell would; returns what it prints."""
    words = shlex.split(command)
    env = dict(word.split("=", 1) for word in words if re.fullmatch(r"[A-Z_]+=.*", word))
    arguments = as_run(shlex.join(words[len(env) :]), short=[])
    assert arguments is not None
    done = python(*arguments, cwd=folder, env=env, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def read_evaluation(folder: Path, run: str) -> dict[str, Any]:
    """The last evaluation of a run."""
    lines = map(json.loads, (folder / "runs" / run / "metrics.jsonl").read_text().splitlines())
    *_, last = (line for line in lines if line["kind"] == "eval")
    return dict(last)


def check_line(folder: Path, printed: list[str]) -> None:
    weight, bias = re.findall(r"tensor\(\[+(.*?)\]", printed[1])
    assert (round(float(weight), 3), round(float(bias), 3)) == (2.997, 2.103)
    found = read_evaluation(folder, "line")
    assert set(found) >= {"loss", "rmse", "mae", "r2", "count"}
    assert found["r2"] >= 0.95
    assert found["count"] == 100


def check_other_lines(folder: Path, printed: list[str]) -> None:  # noqa: ARG001
    assert all(read_evaluation(folder, run)["r2"] > 0.99 for run in ("line_mse", "line_tanh"))


def check_housing(folder: Path, printed: list[str]) -> None:
    """Also that the table has the scores of others on the same test rows."""
    from sklearn.linear_model import LinearRegression

    assert read_evaluation(folder, "housing")["r2"] >= 0.35
    assert len(printed[1].splitlines()) >= 10
    dataset = open_dataset(load_config("housing").data, 0, World())
    assert dataset.test is not None
    rows = [samples.read(torch.arange(len(samples)), 0)[0] for samples in (dataset.train, dataset.test)]
    (inputs, prices), (others, truth) = ([tensor.double().numpy() for tensor in pair] for pair in rows)
    linear = LinearRegression().fit(inputs, prices).score(others, truth)
    mean = 1 - ((truth - prices.mean()) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert f"`LinearRegression` | {linear:.3f} |" in PAGE
    assert f"mean of the training rows | {mean:.3f} |" in PAGE


def check_own_data(folder: Path, printed: list[str]) -> None:
    assert read_evaluation(folder, "five_samples")["correct"] == 5
    assert "step 6 of 6" in printed[1]


def check_overfitting(folder: Path, printed: list[str]) -> None:  # noqa: ARG001
    large, decay, noise = (read_evaluation(folder, run)["loss"] for run in ("overfitting", "decay", "noise"))
    assert max(decay, noise) < 3100 < 3500 < large


CHECKS: dict[str, Callable[[Path, list[str]], None]] = {
    "A line": check_line,
    "Other forms of the line": check_other_lines,
    "Prices of houses": check_housing,
    "Data of your own": check_own_data,
    "Over-fitting": check_overfitting,
}


@pytest.mark.parametrize(
    "title",
    [pytest.param(title, marks=pytest.mark.slow if title in QUICK else pytest.mark.long) for title in SECTIONS],
)
def test_the_commands_of_a_lesson_run(title: str, tmp_path: Path, python: Python) -> None:
    if any(map(needs_data, SECTIONS[title])) and "DIST_TRAIN_DATA" not in os.environ:
        pytest.skip("needs MNIST and CIFAR-10 below $DIST_TRAIN_DATA, which is not set")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    printed = [run_command(command, tmp_path, python) for command in SECTIONS[title]]
    if title in CHECKS:
        CHECKS[title](tmp_path, printed)


def test_the_table_has_each_exercise_once_and_commands_that_are_run() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 45))
    ran = {command for commands in SECTIONS.values() for command in commands}
    recipes = {f"dist-train train {path.stem}" for path in (ROOT / "configs").glob("*.yaml")}
    for number, _, how in rows:
        for command in OURS.findall(how):
            is_beginning = any(command.split()[:4] == each.split()[:4] for each in ran)
            assert command in {*ran, *recipes} or is_beginning, (number, command)


def test_each_recipe_is_on_the_page_and_opens_with_its_command_and_score() -> None:
    for recipe in RECIPES:
        assert f"dist-train train {recipe.stem}\n" in PAGE
        head = recipe.read_text().partition("\n\n")[0]
        for word in ("Hardware:", "Time:", "Score:", "Best:", f"Command:  dist-train train {recipe.stem}"):
            assert word in head, (recipe.name, word)
