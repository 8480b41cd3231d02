"""Where a run starts: at its newest whole checkpoint, and never at zero where it has some that are damaged."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.checkpoint import resume
from dist_train.checkpoint.saver import Saver
from dist_train.checkpoint.store import Store
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError
from dist_train.run_dir import RunDir
from dist_train.settings.schema import Config, ImageFolderData
from tests.unit.dist_train.stepper import Stepper, configure


def save(config: Config, run: RunDir, *steps: int) -> None:
    training = Stepper(config).state
    about = resume.describe_run(config, training.auto_settings, World())
    with Saver(Store(run.checkpoints), keep_last=9, asynchronous=False) as saver:
        for training.step in steps:
            saver.save(training.step, training.checkpoint_files(1, about))


def test_a_checkpoint_that_came_meanwhile_is_not_overlooked(tmp_path: Path) -> None:
    config, run = configure(tmp_path), RunDir(tmp_path / "run")
    resume.set_aside_damaged(run, step=0)
    save(config, run, 4)
    resume.set_aside_damaged(run, step=4)
    with pytest.raises(CheckpointError, match=r"the checkpoint of step 4 has come"):
        resume.set_aside_damaged(run, step=2)


class Trap:
    """Makes a directory where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def crafted(place: Path, mark: Path) -> None:
    """Put a pickle that runs code into a checkpoint, with a manifest that is true of it."""
    torch.save({"weight": Trap(mark)}, place / "model.pt")
    content = (place / "model.pt").read_bytes()
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"]["model.pt"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (place / "manifest.json").write_text(json.dumps(manifest))


def test_damaged_checkpoints_are_passed_over_and_set_aside_once_the_run_is_claimed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, run = configure(tmp_path), RunDir(tmp_path / "run")
    save(config, run, 1, 2, 3)
    (run.checkpoints / "step_00000003" / "training.pt").write_bytes(b"")
    crafted(run.checkpoints / "step_00000002", tmp_path / "it ran")
    before = sorted(run.path.rglob("*"))
    files = resume.load(config, run, World())
    assert files is not None
    assert files["training.pt"]["step"] == 1
    assert not (tmp_path / "it ran").exists()
    assert sorted(run.path.rglob("*")) == before, "another process may be saving there"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    resume.set_aside_damaged(run, step=1)
    assert Store(run.checkpoints).steps() == [1]
    reasons = {path.parent.name: path.read_text() for path in run.checkpoints.glob("quarantine/*/reason.txt")}
    assert set(reasons) == {"step_00000002", "step_00000003"}
    assert "is damaged" in reasons["step_00000003"]
    assert "does not load" in reasons["step_00000002"]
    assert not (tmp_path / "it ran").exists()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_at_zero(tmp_path: Path) -> None:
    config, run = configure(tmp_path), RunDir(tmp_path / "run")
    save(config, run, 1, 2)
    for step in (1, 2):
        (run.checkpoints / f"step_0000000{step}" / "manifest.json").unlink()
    before = sorted(run.path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"(?s)none of them loads:.*_00000002: .*_00000001: .*run\.resume=never"):
        resume.load(config, run, World())
    assert sorted(run.path.rglob("*")) == before
    assert resume.load(config, run, World(), is_fresh_start=True) is None


def test_a_damaged_checkpoint_of_another_run_is_refused_and_stays(tmp_path: Path) -> None:
    config, other = configure(tmp_path), RunDir(tmp_path / "other")
    save(config, other, 1, 2)
    (other.checkpoints / "step_00000002" / "model.pt").write_bytes(b"")
    before = sorted(other.path.rglob("*"))
    forked = configure(tmp_path, f"run.resume={other.path}")
    with pytest.raises(CheckpointError, match=r"step_00000002/model\.pt: is damaged.*Set run\.resume to an undamaged"):
        resume.load(forked, RunDir(tmp_path / "run"), World())
    assert sorted(other.path.rglob("*")) == before


def test_other_settings_are_a_refusal_and_no_damage(tmp_path: Path) -> None:
    config, run = configure(tmp_path), RunDir(tmp_path / "run")
    save(config, run, 1, 2)
    with pytest.raises(CheckpointError, match=r"step_00000002: was trained with other settings"):
        resume.load(configure(tmp_path, "run.seed=7"), run, World())


@pytest.mark.parametrize("section", ["", "run", "data", "model", "optim", "train", "log", "checkpoint"])
def test_no_key_or_value_of_a_checkpoint_s_settings_forges_a_line(tmp_path: Path, section: str) -> None:
    config, harmful = configure(tmp_path), "a\nb\rc\x1b[2Jd\u202e\udcff"
    choices = Stepper(config).state.auto_settings
    described = resume.describe_run(config, choices, World())
    settings = described["settings"]
    (settings[section] if section else settings)[harmful] = harmful
    files = {"training.pt": described}
    shown = resume.describe_changes(files, config, choices, World()).settings
    try:
        resume.check_settings(files, config, tmp_path)
    except CheckpointError as error:  # a resume can change some sections only
        shown += str(error).split("\n")
    assert any("a\\nb" in line for line in shown)
    assert all(line.isprintable() for line in shown)


def test_a_run_with_nothing_but_quarantined_checkpoints_does_not_start_at_zero(tmp_path: Path) -> None:
    config, run = configure(tmp_path), RunDir(tmp_path / "run")
    save(config, run, 1)
    Store(run.checkpoints).quarantine(1, "damaged")
    with pytest.raises(CheckpointError, match=r"has only checkpoints that were set aside.*run\.resume=never"):
        resume.load(config, run, World())


@pytest.mark.parametrize(
    ("ranks", "overrides", "expected"),
    [
        (2, [], ["shared_memory True -> False"]),
        (2, ["run.reproducible=bitwise"], []),
    ],
)
def test_sums_in_another_order_are_named(tmp_path: Path, ranks: int, overrides: list[str], expected: list[str]) -> None:
    config, world = configure(tmp_path, *overrides), World(size=ranks, local_size=ranks)
    now = Stepper(config).state.auto_settings
    files = {"training.pt": resume.describe_run(config, replace(now, shared_memory=True), world)}
    assert resume.describe_changes(files, config, now, world).bits == expected
    assert resume.describe_changes(files, config, replace(now, shared_memory=True), world).bits == []


def test_a_key_that_a_checkpoint_lacks_is_no_change(tmp_path: Path) -> None:
    config, world = configure(tmp_path), World(size=4, local_size=4)
    choices = Stepper(config).state.auto_settings
    files = {"training.pt": resume.describe_run(config, choices, world)}
    del files["training.pt"]["machine"]["shared_memory"]
    assert resume.describe_changes(files, config, choices, world).bits == []


def test_a_checkpoint_of_an_earlier_version_is_named_once(tmp_path: Path) -> None:
    """Its order of samples was another; the next checkpoint has the key."""
    config, world = configure(tmp_path), World()
    choices = Stepper(config).state.auto_settings
    files = {"training.pt": resume.describe_run(config, choices, world)}
    assert resume.describe_changes(files, config, choices, world).bits == []
    del files["training.pt"]["machine"]["sampler"]
    (line,) = resume.describe_changes(files, config, choices, world).bits
    assert "the rest of this epoch may repeat or miss samples" in line


@pytest.mark.parametrize("resize", [8, None])
def test_a_checkpoint_of_pictures_that_were_scaled_otherwise_is_named_once(tmp_path: Path, resize: int | None) -> None:
    config = configure(tmp_path)
    choices = Stepper(config).state.auto_settings
    data = ImageFolderData(name="image_folder", root=str(tmp_path), cache=str(tmp_path), resize=resize)
    config = config.model_copy(update={"data": data})
    files = {"training.pt": resume.describe_run(config, choices, World())}
    assert resume.describe_changes(files, config, choices, World()).bits == []
    del files["training.pt"]["machine"]["scaling"]
    found = resume.describe_changes(files, config, choices, World()).bits
    assert ["mean and std stay those of the run" in line for line in found] == ([True] if resize else [])
