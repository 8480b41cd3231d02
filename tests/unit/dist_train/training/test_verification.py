"""What a resume or an evaluation would refuse, `ckpt verify` finds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.checkpoint import resume
from dist_train.checkpoint.saver import Saver
from dist_train.checkpoint.serialization import Files, encode, weights_sha256
from dist_train.checkpoint.store import Store
from dist_train.data.identity import DataIdentity
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError
from dist_train.run_dir import RunDir
from dist_train.settings.loader import to_yaml
from dist_train.settings.schema import Config, Normalize
from dist_train.training.verification import main, verify
from tests.conftest import Python
from tests.unit.dist_train.stepper import CLASSES, SHAPE, Stepper, configure, make_batch


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with the checkpoints of two steps."""
    run, config = RunDir(tmp_path / "run"), configure(tmp_path, "train.ema_decay=0.9", "optim.name=adam")
    run.path.mkdir()
    run.config.write_text(to_yaml(config))
    stepper = Stepper(config)
    with Saver(Store(run.checkpoints), keep_last=9, asynchronous=False) as saver:
        for stepper.state.step in (1, 2):
            stepper.step(make_batch(8))
            saver.save(stepper.state.step, stepper.state.checkpoint_files(1, about(config, stepper)))
    return run


def about(config: Config, stepper: Stepper) -> dict[str, Any]:
    data = DataIdentity(SHAPE, tuple("abcd"), Normalize(mean=(0.5,), std=(0.25,)), {})
    assert len(data.classes) == CLASSES
    return resume.describe_run(config, stepper.state.auto_settings, World(), data)


def rewrite(checkpoint: Path, file: str, change: Any) -> None:
    """Change a file, with a manifest that fits it."""
    stored = torch.load(checkpoint / file, weights_only=True)
    change(stored)
    files: Files = {path.name: torch.load(path, weights_only=True) for path in checkpoint.glob("*.pt")}
    files[file] = stored
    for path in checkpoint.iterdir():
        path.unlink()
    checkpoint.rmdir()
    store = Store(checkpoint.parent)
    store.save(2, {name: encode(content) for name, content in files.items()}, weights_sha256(files["model.pt"]))


def test_what_is_undamaged_is_said_to_be(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert dict(verify(run)) == {1: None, 2: None}
    assert main([str(run.path)]) == 0
    assert capsys.readouterr().out.split() == ["step", "1", "undamaged", "step", "2", "undamaged"]


CHANGES: dict[str, tuple[str, Any]] = {
    "dtype": ("model.pt", lambda state: state.update({"0.weight": state["0.weight"].to(torch.int8)})),
    "shape of the average": ("average.pt", lambda state: state.update({"0.weight": torch.zeros(1)})),
    "complex": ("average.pt", lambda state: state.update({"0.weight": state["0.weight"] * 1j})),
    "not finite": ("model.pt", lambda state: state["0.weight"].fill_(torch.nan)),
    "a weight missing": ("average.pt", lambda state: state.pop("0.weight")),
    "state": ("training.pt", lambda state: state["optimizer_state_dict"]["state"][0].pop("exp_avg")),
    "no window": ("training.pt", lambda state: state.pop("window")),
    "precision": ("training.pt", lambda state: state["choices"].update(precision="fp8")),
    "settings": ("training.pt", lambda state: state["settings"]["run"].update(seed=7)),
    "data": ("training.pt", lambda state: state["data"].update(mean=[])),
    "a huge image": ("training.pt", lambda state: state["data"].update(shape=[1, 2**40, 1])),
    "newer": ("training.pt", lambda state: state["choices"].update(later=1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_be_refused_is_found(run: RunDir, capsys: pytest.CaptureFixture[str], change: str) -> None:
    file, how = CHANGES[change]
    names = list(torch.load(run.checkpoints / "step_00000002" / "model.pt", weights_only=True))

    def renamed(state: dict[str, Any]) -> None:
        if file == "training.pt":
            how(state)
            return
        state["0.weight"] = state.pop(names[0])
        how(state)
        if "0.weight" in state:
            state[names[0]] = state.pop("0.weight")

    rewrite(run.checkpoints / "step_00000002", file, renamed)
    found = dict(verify(run))
    assert found[1] is None
    assert found[2] is not None
    assert main([str(run.path)]) == 1
    assert found[2] in capsys.readouterr().out


def test_torch_s_compiler_is_not_imported(run: RunDir, python: Python) -> None:
    code = "import sys; from dist_train.training.verification import main; main(sys.argv[1:])"
    done = python("-c", f"{code}; print(sorted(sys.modules))", str(run.path))
    assert "2  undamaged" in done.stdout
    assert "'torch'" in done.stdout
    assert "'torch._dynamo'" not in done.stdout


def test_a_run_without_checkpoints_is_refused(run: RunDir) -> None:
    with pytest.raises(CheckpointError, match="has no checkpoints"):
        next(verify(RunDir(run.path.parent / "nowhere")))


def test_one_of_an_earlier_version_is_read_as_far_as_it_goes(run: RunDir) -> None:
    rewrite(run.checkpoints / "step_00000002", "training.pt", lambda state: state.pop("data"))
    assert dict(verify(run))[2] is None
    manifest = run.checkpoints / "step_00000002" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "weights_sha256": ""}))
    assert "SHA-256" in str(dict(verify(run))[2])
