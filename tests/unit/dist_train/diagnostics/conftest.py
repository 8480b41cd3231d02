"""Fixtures of the tests of diagnostics."""

from pathlib import Path

import pytest

from dist_train.diagnostics import root_cause


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "digits" / "diagnostics").mkdir(parents=True)
    return tmp_path / "digits"


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the records of other ranks: none are coming."""
    monkeypatch.setattr(root_cause, "_PATIENCE", 0)
    monkeypatch.setattr(root_cause, "_DELAY", 0)
