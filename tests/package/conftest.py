"""A wheel of this checkout in an environment of its own, which borrows torch and the like from the one of the tests."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = (
    "dist_train",
    "launch",
    "configs",
    "slurm",
    "template",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
)


@dataclass(frozen=True)
class Installed:
    """An environment in which `dist-train` is installed from its wheel; the checkout can't be imported there."""

    root: Path
    environ: Mapping[str, str]

    @property
    def site_packages(self) -> Path:
        return next(self.root.glob("lib/python3*/site-packages"))

    def run(
        self, program: str, *arguments: str, cwd: Path, timeout: float = 180, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment in a directory."""
        return subprocess.run(
            [str(self.root / "bin" / program), *arguments],
            cwd=cwd,
            env={**self.environ, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, clean_environment: Mapping[str, str]) -> Installed:
    """Build the wheel as pip does, and install it."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    _call(source, sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('..')")
    shutil.rmtree(source)
    _call(folder, sys.executable, "-m", "venv", "--without-pip", "environment")
    environ = {name: value for name, value in clean_environment.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environ["PATH"] = os.pathsep.join([str(folder / "environment" / "bin"), environ["PATH"]])
    found = Installed(folder / "environment", environ)
    (found.site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    target = ("--python", str(found.root / "bin" / "python"))
    (wheel,) = folder.glob("*.whl")
    _call(folder, sys.executable, "-m", "pip", *target, "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    return found


def _call(cwd: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
