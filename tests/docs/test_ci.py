"""Hosted CI and the matrix: what they run, and that the workflow is one that GitHub takes."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLDEST = ROOT / ".ci" / "oldest.txt"
LINTERS = (
    ("check-jsonschema", "--builtin-schema", "vendor.github-workflows"),
    ("zizmor", "--quiet", "--offline", "--no-config", "--persona", "pedantic"),
)


def job() -> Any:
    """The only job of the workflow."""
    (only,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    return only


def run(
    *command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def lint(linter: tuple[str, ...], workflow: Path) -> "subprocess.CompletedProcess[str]":
    return run(Path(sys.executable).with_name(linter[0]), *linter[1:], workflow)


def pythons() -> list[str]:
    return [name.rpartition(" ")[2] for name in PROJECT["classifiers"]]


@pytest.mark.parametrize("linter", LINTERS, ids=lambda linter: linter[0])
class TestWorkflow:
    def test_the_linter_finds_nothing(self, linter: tuple[str, ...]) -> None:
        done = lint(linter, WORKFLOW)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_linter_finds_a_fault(self, linter: tuple[str, ...], tmp_path: Path) -> None:
        broken = tmp_path / "ci.yml"
        text = (
            WORKFLOW.read_text().replace("fail-fast", "failfast").replace("run: make train", "run: ${{ github.ref }}")
        )
        broken.write_text(text)
        assert lint(linter, broken).returncode != 0


def test_the_workflow_runs_the_commands_of_the_readme() -> None:
    ran = [step["run"] for step in job()["steps"] if "run" in step]
    assert ran == ["make train", "make test"]
    for command in ran:
        assert re.search(rf"^(\$ )?{command}\b", (ROOT / "README.md").read_text(), re.MULTILINE), command


def test_the_workflow_has_the_first_and_the_last_of_what_is_supported() -> None:
    matrix = job()["strategy"]["matrix"]
    assert matrix["python"] == [pythons()[0], pythons()[-1]]
    constraints = {row["versions"]: row["constraints"] for row in matrix["include"]}
    assert constraints == {"oldest": str(OLDEST.relative_to(ROOT)), "newest": "", "locked": "requirements.lock"}
    assert job()["env"]["CONSTRAINTS"] == "${{ matrix.constraints }}"


def test_the_variable_of_the_workflow_reaches_pip() -> None:
    for constraints, expected in ((".ci/oldest.txt", "--constraint .ci/oldest.txt"), ("", "--quiet  --editable")):
        environment = {"CONSTRAINTS": constraints, "PATH": os.environ["PATH"]}
        assert expected in run("make", "-n", "-W", "pyproject.toml", "install", env=environment).stdout


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    oldest = dict(re.findall(r"^(\w+)==(\S+)\.\*$", OLDEST.read_text(), re.MULTILINE))
    bounds = dict(re.findall(r"^(\w+)>=(\S+)$", "\n".join(PROJECT["dependencies"]), re.MULTILINE))
    assert oldest == {name: bounds[name] for name in ("torch", "torchvision")}
    assert PROJECT["requires-python"] == f">={pythons()[0]}"


UV = """#!/bin/bash
echo "uv $*" >> asked
[[ "$*" != *"--python 3.12"* ]] || exit 2
mkdir -p .venv-matrix/tests/bin
ln -sf /bin/true .venv-matrix/tests/bin/python
"""
MAKE = """#!/bin/bash
echo "make $*" >> asked
exit "${TESTS_EXIT:-0}"
"""


class TestMatrix:
    """`.ci/matrix` with a uv and a make that write down how they are called; uv has no Python 3.12."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        programs = {
            ".ci/matrix": (ROOT / ".ci" / "matrix").read_text(),
            ".venv-matrix/uv/bin/uv": UV,
            "bin/make": MAKE,
        }
        for name, text in programs.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True)
            path.write_text(text)
            path.chmod(0o755)
        (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
        return tmp_path

    def matrix(self, checkout: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        path = f"{checkout / 'bin'}:{os.environ['PATH']}"
        return run(checkout / ".ci" / "matrix", *arguments, cwd=checkout, env={"PATH": path, **env})

    def test_a_missing_python_fails(self, checkout: Path) -> None:
        done = self.matrix(checkout)
        rows = done.stdout.splitlines()[-2 * len(pythons()) :]
        missing = "FAILED, no Python 3.12 was found or could be downloaded"
        assert rows == [
            f"Python {python}, {torch} torch: {missing if python == '3.12' else 'passed'}"
            for python in pythons()
            for torch in ("oldest", "newest")
        ]
        assert done.returncode == 1

    @pytest.mark.parametrize(("torch", "constraint"), [("oldest", ["--constraint .ci/oldest.txt"]), ("newest", [])])
    def test_the_quick_tests_run_in_an_environment_with_that_torch(
        self, checkout: Path, torch: str, constraint: list[str]
    ) -> None:
        done = self.matrix(checkout, f"3.13/{torch}")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"Python 3.13, {torch} torch: passed")
        environment = ".venv-matrix/tests"
        assert (checkout / "asked").read_text().splitlines() == [
            f"uv venv --quiet --python 3.13 {environment}",
            " ".join(["uv pip install --quiet --python", environment, *constraint, "--editable .[test]"]),
            f"make --no-print-directory -o lint -o install BIN={environment}/bin test-quick",
        ]
        assert not (checkout / environment).exists()

    def test_failed_tests_fail(self, checkout: Path) -> None:
        done = self.matrix(checkout, "3.11/oldest", TESTS_EXIT="2")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "Python 3.11, oldest torch: FAILED")

    def test_an_unknown_argument_is_refused(self, checkout: Path) -> None:
        done = self.matrix(checkout, "3.11")
        assert (done.returncode, done.stdout) == (2, "")
        assert "3.11: expected a Python and a torch" in done.stderr

    def test_make_runs_nothing_but_the_tests_there(self) -> None:
        done = run("make", "--no-print-directory", "-n", "-o", "lint", "-o", "install", "BIN=elsewhere", "test-quick")
        (line,) = done.stdout.splitlines()
        assert line.startswith("elsewhere/python -m pytest ")
