"""A user's directory on a machine without Slurm."""

from pathlib import Path

import pytest

from tests.unit.launch.sweeps.sweep_files import CONFIG


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, on a machine without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def runs_dir(workdir: Path) -> Path:
    """An empty `runs/` in the working directory."""
    (workdir / "runs").mkdir()
    return workdir / "runs"


@pytest.fixture
def small_yaml(workdir: Path) -> Path:
    """A small file of settings in the working directory."""
    (workdir / "small.yaml").write_text(CONFIG)
    return workdir / "small.yaml"
