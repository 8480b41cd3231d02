"""What a user has who installs the wheel: commands, recipes and the batch script, from any directory."""

import os
import subprocess
from pathlib import Path

import pytest

from dist_train.recipes import list_recipes
from launch.cli import COMMANDS
from tests.conftest import ROOT
from tests.docs.test_docs import without_slurm
from tests.package.conftest import Installed

pytestmark = pytest.mark.slow
SHORT = ("train.max_steps=2", "data.limit_train=64", "data.limit_test=32")
FOREIGN = "raise ImportError('this is the launch of somebody else')\n"


def add_foreign_launch(folder: Path) -> Path:
    """Write a package `launch` that can't be imported; returns the folder for the path."""
    (folder / "launch").mkdir(parents=True)
    (folder / "launch" / "__init__.py").write_text(FOREIGN)
    return folder


def test_it_is_all_there_and_nothing_of_the_checkout(installed: Installed, tmp_path: Path) -> None:
    program = "import dist_train, importlib.util as u; print(dist_train.__file__, u.find_spec('launch'))"
    done = installed.run("python", "-c", program, cwd=tmp_path)
    assert done.stdout.split() == [str(installed.site_packages / "dist_train" / "__init__.py"), "None"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    wanted = [
        path for path in listed if path.startswith(("dist_train/", "launch/")) and path.endswith((".py", ".typed"))
    ]
    wanted += [str(path.relative_to(ROOT)) for path in list_recipes().values()]
    wanted += [path for path in listed if path.startswith("configs/lessons/") and path.endswith(".py")]
    inside = installed.site_packages / "dist_train"
    assert [path for path in wanted if not (inside / path.removeprefix("dist_train/")).is_file()] == []
    assert wanted


def test_recipes_are_listed_printed_and_trained_by_name(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("dist-train", "recipes", cwd=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(list_recipes())
    printed = installed.run("dist-train", "recipes", "digits", cwd=tmp_path)
    assert printed.stdout == (ROOT / "configs" / "digits.yaml").read_text()
    for command in (
        ("dist-train", "train", "digits", "--nproc", "2", "distributed.backend=gloo"),
        ("python", "-m", "dist_train", "digits", "run.name=single"),
    ):
        done = installed.run(*command, *SHORT, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "done, 2 steps" in done.stdout
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"digits", "single"}
    evaluated = installed.run("python", "-m", "dist_train.evaluate", "runs/digits", cwd=tmp_path)
    assert "test accuracy" in evaluated.stdout


def test_jobs_are_submitted_with_the_script_of_the_wheel(installed: Installed, tmp_path: Path) -> None:
    command = ("submit", "digits", "--gpus-per-node", "0", "--time", "0:10:00", "--dry-run")
    done = installed.run("dist-train", *command, cwd=tmp_path, PATH=without_slurm())
    assert done.returncode == 0, done.stderr
    assert (ROOT / "slurm" / "train.sbatch").read_text() in done.stdout
    begun = installed.run(
        "python", "-m", "dist_train.command", "job", "begin", "digits", cwd=tmp_path, SLURM_JOB_ID="7"
    )
    assert (begun.returncode, begun.stdout) == (0, "auto\n")


class TestBesideAnotherLaunch:
    """ROS has a package `launch`, too: ours works wherever that one is, and ranks can import it."""

    @pytest.mark.parametrize("place", ["PYTHONPATH", "site-packages", "directory"])
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_starts(
        self, installed: Installed, tmp_path: Path, place: str, command: str, request: pytest.FixtureRequest
    ) -> None:
        folder = add_foreign_launch(tmp_path if place != "site-packages" else tmp_path / "packages")
        path = str(folder) if place == "PYTHONPATH" else ""
        if place == "site-packages":
            pth = installed.site_packages / "a_foreign.pth"
            pth.write_text(f"import sys; sys.path.insert(0, {str(folder)!r})\n")
            request.addfinalizer(pth.unlink)
        for program in (("dist-train",), ("python", "-m", "dist_train.command")):
            done = installed.run(*program, command, "--help", cwd=tmp_path, PYTHONPATH=path)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith(f"usage: dist-train {command}")

    @pytest.mark.parametrize("ranks", [1, 2])
    def test_own_code_imports_the_other_one_in_every_rank(
        self, installed: Installed, tmp_path: Path, ranks: int
    ) -> None:
        (tmp_path / "ros" / "launch").mkdir(parents=True)
        (tmp_path / "ros" / "launch" / "__init__.py").write_text("NAME = 'of ROS'\n")
        (tmp_path / "sitecustomize.py").write_text(
            "import atexit, sys\n"
            "import launch\n"  # somebody's, imported before ours
            "assert launch.NAME == 'of ROS'\n"
        )
        path = os.pathsep.join([str(tmp_path / "ros"), str(tmp_path)])
        command = ("train", "digits", "--nproc", str(ranks), "distributed.backend=gloo", *SHORT)
        done = installed.run("dist-train", *command, cwd=tmp_path, PYTHONPATH=path)
        assert done.returncode == 0, done.stdout + done.stderr
        program = "import dist_train, launch; print(launch.NAME)"
        assert installed.run("python", "-c", program, cwd=tmp_path, PYTHONPATH=path).stdout == "of ROS\n"
