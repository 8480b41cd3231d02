"""The environment of the peers."""

import venv
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.compare import peers_environment
from benchmarks.compare.peers_environment import LOCK
from dist_train.errors import UserError


def test_peers_that_cannot_be_installed_are_a_user_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers_environment, "DIRECTORY", tmp_path)
    monkeypatch.setattr(peers_environment, "PYTHON", Path("/bin/false"))
    monkeypatch.setattr(venv, "create", lambda *_, **__: None)
    monkeypatch.setattr(peers_environment, "_site_packages", lambda: tmp_path)
    with pytest.raises(UserError, match=r"peers\.lock cannot be installed .*exit status 1"):
        peers_environment.peers_python()
    assert not (tmp_path / "installed.lock").exists()


def lines_of(text: str) -> Iterable[str]:
    return (line for line in text.splitlines() if line)


def test_the_peers_are_pinned() -> None:
    pins = dict(line.split("==") for line in lines_of(LOCK.read_text()))
    assert {"accelerate", "lightning", "pytorch-ignite"} <= set(pins)
    assert not {"torch", "torchvision", "numpy"} & set(pins), "those are the project's own"
