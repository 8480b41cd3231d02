"""Fixtures of the tests of diagnostics."""

from pathlib import Path

import pytest

from dist_train.diagnostics import root_cause as verdict_module


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "digits" / "diagnostics").mkdir(parents=True)
    return tmp_path / "digits"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the words of others: there are none to come."""
    monkeypatch.setattr(verdict_module, "_PATIENCE", 0)
    monkeypatch.setattr(verdict_module, "_SETTLE", 0)
