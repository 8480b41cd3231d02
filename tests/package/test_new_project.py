"""A project that `dist-train new` makes trains, passes its own test, and is submitted, without the checkout."""

import os
from pathlib import Path

import pytest

from tests.docs.test_docs import without_slurm
from tests.package.conftest import Installed

pytestmark = pytest.mark.slow


@pytest.fixture
def project(installed: Installed, tmp_path: Path) -> Path:
    done = installed.run("dist-train", "new", "shapes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "shapes"


def test_its_test_passes(installed: Installed, project: Path) -> None:
    done = installed.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_it_trains_at_once_and_is_submitted(installed: Installed, project: Path) -> None:
    done = installed.run("dist-train", "train", "settings.yaml", "model.args.width=4", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "shapes: done, 144 steps" in done.stdout
    swept = installed.run(
        "dist-train", "sweep", "settings.yaml", "optim.lr=0.01,0.02", "train.max_steps=2", cwd=project
    )
    assert swept.returncode == 0, swept.stdout + swept.stderr
    command = ("submit", "settings.yaml", "--gpus-per-node", "0", "--time", "0:10:00", "--dry-run")
    submitted = installed.run("dist-train", *command, cwd=project, PATH=without_slurm())
    assert submitted.returncode == 0, submitted.stderr


def test_a_script_that_is_beside_it_trains_it_too(installed: Installed, project: Path) -> None:
    (project / "script.py").write_text(
        "from dist_train import load_config, train\n"
        "print(train(load_config('settings.yaml', ['train.max_steps=3', 'run.dir=runs/a'])).step)\n"
    )
    done = installed.run("python", "script.py", cwd=project)
    assert done.stdout.splitlines()[-1:] == ["3"], done.stderr
    assert os.listdir(project / "runs") == ["a"]  # noqa: PTH208
