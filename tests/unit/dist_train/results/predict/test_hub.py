"""Networks of a hubconf.py: pinned to a commit, and run only if their code is the user's own or trusted."""

import os
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import nn

from dist_train.errors import ConfigError, OwnCodeError
from dist_train.results.predict.hub import build_from_hub
from tests.unit.launch.command import run_command

HUBCONF = """
import torch
from layers_beside import make

def net(pretrained=False):
    print("a word of the network")
    network = make()
    if pretrained:
        torch.nn.init.zeros_(network[-1].weight)
    return network

def fails():
    raise ValueError("no such size")

def number():
    return 3
"""
LAYERS = """
from torch import nn

def make():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = f"owner/repo@{COMMIT}:net"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    (folder / "layers_beside.py").write_text(LAYERS)
    return folder


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> list[str]:
    """Let a download give an archive of the folder, as GitHub does; return the addresses asked for."""
    asked: list[str] = []

    def download(url: str, target: str, **_: Any) -> None:
        asked.append(url)
        with zipfile.ZipFile(target, "w") as archive:
            for path in folder.iterdir():
                archive.write(path, f"owner-repo-{COMMIT[:7]}/{path.name}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


def test_a_folder_of_the_user_is_run_with_a_file_of_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (300, 200)).save(tmp_path / "black.png")
    weights = {"2.weight": torch.zeros(4, 3), "2.bias": torch.tensor([0.0, 0, 9, 1])}
    torch.save(weights, tmp_path / "weights.pt")
    arguments = [f"hub/{folder}:net", tmp_path / "black.png", "--top", 2]
    code, printed = run_command(capsys, "predict", *arguments, "--weights", tmp_path / "weights.pt")
    assert code == 0, printed
    assert "black.png: 2 (99.9 %), 3 (0.0 %)" in printed
    code, printed = run_command(capsys, "predict", *arguments, "--weights", folder / "hubconf.py")
    assert (code, "hubconf.py: " in printed, "Traceback" in printed) == (2, True, False)


def test_the_entry_decides_the_weights_without_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network: Any = build_from_hub(f"{folder}:net", has_weights=True, trust_code=False)
    assert not network[-1].weight.any()
    assert capsys.readouterr().out == ""


def test_a_relative_folder_begins_with_a_dot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert isinstance(build_from_hub("./folder:net", has_weights=False, trust_code=False), nn.Module)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")
def test_code_of_another_user_needs_trust(folder: Path) -> None:
    os.chown(folder / "layers_beside.py", 1234, -1)
    with pytest.raises(ConfigError, match=r"layers_beside\.py belongs to another user.* add --trust-code"):
        build_from_hub(f"{folder}:net", has_weights=False, trust_code=False)
    assert isinstance(build_from_hub(f"{folder}:net", has_weights=False, trust_code=True), nn.Module)


def test_a_repository_is_downloaded_once_if_it_is_trusted(downloads: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"run code of https://github\.com/owner/repo/tree/{COMMIT}"):
        build_from_hub(NAME, has_weights=False, trust_code=False)
    assert downloads == []
    for _ in range(2):
        assert isinstance(build_from_hub(NAME, has_weights=False, trust_code=True), nn.Module)
    assert downloads == [f"https://github.com/owner/repo/zipball/{COMMIT}"]


def test_a_repository_that_cannot_be_downloaded_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    place = tmp_path / "torch" / "hub" / f"owner_repo_{COMMIT}"
    with pytest.raises(ConfigError, match=rf"no route to host>\)\. Get https://\S* where .* at {place}$"):
        build_from_hub(NAME, has_weights=False, trust_code=True)
    assert not list(place.parent.iterdir())


@pytest.mark.parametrize("pinned", ["", "@main", "@v1.0", f"@{COMMIT[:8]}", f"@{COMMIT.upper()}"])
def test_a_repository_without_a_commit_is_refused(pinned: str, downloads: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"names no commit.* Write hub/owner/repo@COMMIT:"):
        build_from_hub(f"owner/repo{pinned}:net", has_weights=False, trust_code=True)
    assert downloads == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/repo", "names no entry"),
        ("{folder}:", "names no entry"),
        ("a/b/c@1:net", "write hub/owner/repo@COMMIT:entry"),
        ("{folder}/none:net", "has no file hubconf.py"),
        ("{folder}:none", "hubconf.py has no such entry"),
        ("{folder}:number", "gives a int, and no torch"),
    ],
)
def test_other_names_are_refused(name: str, message: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        build_from_hub(name.format(folder=folder), has_weights=False, trust_code=True)


def test_a_failure_of_the_code_is_shown_as_such(folder: Path) -> None:
    with pytest.raises(OwnCodeError, match="no such size"):
        build_from_hub(f"{folder}:fails", has_weights=False, trust_code=False)
