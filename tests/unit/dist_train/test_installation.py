"""Folders of the program in a checkout; `tests/package` has those of a wheel."""

from pathlib import Path

import pytest

from dist_train import installation
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["launch", "configs", "slurm/train.sbatch"])
def test_they_are_beside_the_package_or_inside(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.find_own(name) == ROOT / name
    monkeypatch.setattr(installation, "_PACKAGE", tmp_path)
    inside = tmp_path / name
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.touch()
    assert installation.find_own(name) == inside
