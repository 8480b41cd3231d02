"""Checkpoints on disk: whole or not there, the same bytes that were written, and nothing in them that runs."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dist_train import checkpoint
from dist_train.errors import CheckpointError


def content(step: int) -> dict[str, dict[str, Any]]:
    weights = torch.arange(6.0).view(2, 3) + step
    return {
        "model.pt": {"conv1.weight": weights, "conv1.bias": torch.tensor([0.5])},
        "training.pt": {"step": step, "optimizer_state_dict": {"state": {0: {"exp_avg": weights / 7}}}, "loss": 0.25},
    }


def save(directory: Path, *steps: int, link: str | None = None) -> Path:
    return [checkpoint.save(directory, step, content(step), link) for step in steps][-1]


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def killed_save(directory: Path, step: int, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Save, and die when so many files were written."""
    written = 0

    def fsync(descriptor: int) -> None:  # noqa: ARG001
        nonlocal written
        written += 1
        if written > after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(Killed):
            save(directory, step)


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    place = save(tmp_path / "checkpoints", 1200)
    assert place == tmp_path / "checkpoints" / "step_00001200"
    contents = checkpoint.read(place)
    assert set(contents) == {"model.pt", "training.pt"}
    decoded = {name: checkpoint.decode(file, name) for name, file in contents.items()}
    for name, tensor in content(1200)["model.pt"].items():
        assert torch.equal(decoded["model.pt"][name], tensor)
    training = decoded["training.pt"]
    assert (training["step"], training["loss"]) == (1200, 0.25)
    assert torch.equal(
        training["optimizer_state_dict"]["state"][0]["exp_avg"], (torch.arange(6.0).view(2, 3) + 1200) / 7
    )


def test_both_files_load_with_torch_alone(tmp_path: Path) -> None:
    place = save(tmp_path, 3)
    model = torch.load(place / "model.pt", weights_only=True)
    assert list(model) == ["conv1.weight", "conv1.bias"]
    assert torch.load(place / "training.pt", weights_only=True)["step"] == 3


def test_the_manifest_is_true(tmp_path: Path) -> None:
    place = save(tmp_path, 3)
    manifest = json.loads((place / "manifest.json").read_text())
    assert set(manifest) == {"step", "weights_sha256", "files"}
    assert manifest["step"] == 3
    assert manifest["weights_sha256"] == checkpoint.weights_sha256(content(3)["model.pt"])
    for name in ("model.pt", "training.pt"):
        written = (place / name).read_bytes()
        assert manifest["files"][name] == {"sha256": hashlib.sha256(written).hexdigest(), "bytes": len(written)}


def test_links_follow(tmp_path: Path) -> None:
    save(tmp_path, 1, link="best")
    save(tmp_path, 2)
    assert (tmp_path / "latest").readlink() == Path("step_00000002")
    assert (tmp_path / "best").readlink() == Path("step_00000001")
    save(tmp_path, 3, link="best")
    assert (tmp_path / "latest").resolve() == (tmp_path / "best").resolve() == tmp_path / "step_00000003"


def test_links_are_mended_and_a_newer_best_stays(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    (tmp_path / "latest").unlink()
    checkpoint.mend_links(tmp_path, best_step=2)
    assert [(tmp_path / name).readlink().name for name in ("latest", "best")] == ["step_00000003", "step_00000002"]
    checkpoint.mend_links(tmp_path, best_step=1)
    assert (tmp_path / "best").readlink().name == "step_00000002"
    checkpoint.mend_links(tmp_path, best_step=7)
    assert (tmp_path / "best").readlink().name == "step_00000002"
    (tmp_path / "best").unlink()
    checkpoint.mend_links(tmp_path, best_step=None)
    assert not (tmp_path / "best").is_symlink()


def test_a_save_of_a_step_that_is_there_keeps_it(tmp_path: Path) -> None:
    place = save(tmp_path, 1)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()}
    save(tmp_path, 2)
    assert checkpoint.save(tmp_path, 1, content(9), "best") == place
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()} == before
    assert (tmp_path / "best").readlink() == (tmp_path / "latest").readlink() == Path("step_00000001")


def test_a_save_under_way_has_a_hidden_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append(names(tmp_path))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    save(tmp_path, 1)
    hidden = [listing for listing in seen if any(name.startswith(".step_00000001") for name in listing)]
    assert len(hidden) == 4  # model.pt, training.pt, manifest.json, and the directory of the three
    assert all(not name.startswith("step_") for listing in hidden for name in listing)
    assert names(tmp_path) == ["latest", "step_00000001"]


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_what_a_killed_save_leaves_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    save(tmp_path, 1)
    killed_save(tmp_path, 2, monkeypatch, after)
    assert any(name.startswith(".step_00000002") for name in names(tmp_path))
    assert checkpoint.steps(tmp_path) == [1]
    assert checkpoint.find(tmp_path) == tmp_path / "step_00000001"
    checkpoint.prune(tmp_path, keep_last=3)
    assert names(tmp_path) == ["latest", "step_00000001"]
    assert checkpoint.read(save(tmp_path, 2))


def test_the_same_process_saves_over_its_own_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_save(tmp_path, 2, monkeypatch, after=1)
    assert checkpoint.read(save(tmp_path, 2))
    assert names(tmp_path) == ["latest", "step_00000002"]


def test_a_link_that_a_kill_left_half_made_keeps_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".latest.4711").symlink_to("step_00000001")
    save(tmp_path, 2)
    checkpoint.prune(tmp_path, keep_last=1)
    assert names(tmp_path) == ["latest", "step_00000002"]


def test_prune_keeps_the_newest_and_what_links_lead_to(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, link="best")
    save(tmp_path, 10, 100, 1000)
    (tmp_path / "notes.txt").write_text("the user's")
    checkpoint.prune(tmp_path, keep_last=2)
    assert checkpoint.steps(tmp_path) == [2, 100, 1000]
    assert (tmp_path / "notes.txt").exists()
    checkpoint.prune(tmp_path, keep_last=2)
    assert checkpoint.steps(tmp_path) == [2, 100, 1000]


def test_a_removal_that_is_cut_short_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, 2)
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: (path / "model.pt").unlink())
    checkpoint.prune(tmp_path, keep_last=1)
    assert not (tmp_path / ".step_00000001.old" / "model.pt").exists()
    assert checkpoint.steps(tmp_path) == [2]
    monkeypatch.undo()
    checkpoint.prune(tmp_path, keep_last=1)
    assert names(tmp_path) == ["latest", "step_00000002"]


def test_steps_are_sorted_by_number(tmp_path: Path) -> None:
    save(tmp_path, 123_456_789, 99_999_999, 5)
    (tmp_path / "step_00000007").mkdir()  # somebody else's, without a manifest
    assert checkpoint.steps(tmp_path) == [5, 99_999_999, 123_456_789]
    assert checkpoint.steps(tmp_path / "nowhere") == []


def test_find_takes_a_run_a_directory_of_checkpoints_a_checkpoint_and_a_link(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    save(checkpoints, 1, link="best")
    newest = save(checkpoints, 2)
    assert checkpoint.find(tmp_path) == checkpoint.find(checkpoints) == checkpoint.find(newest) == newest
    assert checkpoint.find(checkpoints / "best").resolve() == checkpoints / "step_00000001"


def test_where_there_is_none_find_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=f"^{path}: no checkpoint there"):
            checkpoint.find(path)


@pytest.mark.parametrize("name", ["model.pt", "training.pt"])
@pytest.mark.parametrize("damage", ["a bit", "the end", "all"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    path = save(tmp_path, 1) / name
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes({"a bit": bytes(whole), "the end": path.read_bytes()[:-1], "all": b""}[damage])
    with pytest.raises(CheckpointError, match=rf"^{path}: is damaged, its SHA-256"):
        checkpoint.read(path.parent)


@pytest.mark.parametrize("name", ["model.pt", "training.pt", "manifest.json"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    place = save(tmp_path, 1)
    (place / name).unlink()
    with pytest.raises(CheckpointError, match=rf"^{place}: does not load: .*No such file.*{name}"):
        checkpoint.read(place)


@pytest.mark.parametrize(
    "manifest", ["", "{", "[]", "{}", '{"files": ["model.pt"]}', '{"files": {"model.pt": {}}}', '{"files": 1}', "\xff"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, manifest: str) -> None:
    place = save(tmp_path, 1)
    (place / "manifest.json").write_bytes(manifest.encode("latin-1"))
    with pytest.raises(CheckpointError, match=rf"^{place}: does not load"):
        checkpoint.read(place)


class Trap:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("as_torch", [True, False], ids=["torch", "pickle"])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, as_torch: bool) -> None:
    mark, crafted = tmp_path / "it ran", tmp_path / "crafted.pt"
    if as_torch:
        torch.save({"weight": Trap(mark)}, crafted)
    else:
        crafted.write_bytes(pickle.dumps({"weight": Trap(mark)}, protocol=2))
    with pytest.raises(CheckpointError, match=r"^training\.pt: does not load"):
        checkpoint.decode(crafted.read_bytes(), "training.pt")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))  # noqa: S301 - the trap does work
    assert mark.exists()


@pytest.mark.parametrize("damaged", [b"", b"text\n", b"PK\x03\x04", b"\x80\x02", bytes(300), b"\x80\x02}q\x00."])
def test_bytes_that_are_no_checkpoint_are_refused(damaged: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^model\.pt: "):
        checkpoint.decode(damaged, "model.pt")


def test_a_file_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match=r"^model\.pt: does not load: it holds a Tensor"):
        checkpoint.decode((tmp_path / "tensor.pt").read_bytes(), "model.pt")


def test_the_hash_of_weights_sees_numbers_not_memory() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    before = checkpoint.weights_sha256(convolution.state_dict())
    convolution.to(memory_format=torch.channels_last)
    assert convolution.weight.stride() != convolution.weight.contiguous().stride()
    assert checkpoint.weights_sha256(convolution.state_dict()) == before


def test_the_hash_of_weights_sees_every_change() -> None:
    weight = torch.arange(6.0)
    variants = [
        {"a": weight},
        {"b": weight},
        {"a": weight.view(2, 3)},
        {"a": weight.double()},
        {"a": weight.view(torch.int32)},
        {"a": weight * torch.tensor([-1.0, 1, 1, 1, 1, 1])},  # minus zero
        {"a": weight, "b": torch.empty(0)},
        {"a": weight, "b": torch.tensor(0)},
        {"a": weight.bfloat16()},
    ]
    assert len({checkpoint.weights_sha256(variant) for variant in variants}) == len(variants)
