"""Callbacks: which methods a class may have, what they get, and their state in a checkpoint."""

import dataclasses
import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from dist_train.checkpoint.schema import check_training
from dist_train.checkpoint.serialization import decode, encode
from dist_train.data.batches import Pass, Shard
from dist_train.errors import ConfigError, OwnCodeError
from dist_train.settings.loader import load_config
from dist_train.settings.schema import OwnCallback
from dist_train.tasks import Evaluation
from dist_train.training.callbacks import Callbacks, Method, StepView
from tests.conftest import ROOT
from tests.unit.dist_train.stepper import Stepper, configure, make_batch

SOURCE = """
class Base:
    def __init__(self, first=0):
        self.seen = [first]

class Whole(Base):
    def on_start(self, run): self.seen.append(("on_start", run.step))
    def on_step(self, run, step): self.seen.append(("on_step", step))
    def on_evaluate(self, run, evaluation): self.seen.append(("on_evaluate", evaluation))
    def on_checkpoint(self, run, path): self.seen.append(("on_checkpoint", path))
    def on_end(self, run, is_done): self.seen.append(("on_end", is_done))
    def state_dict(self): return {"seen": self.seen[0]}
    def load_state_dict(self, state): self.seen = [state["seen"]]

class Misnamed(Base):
    def on_steps(self, run, step): ...

class OfLightning(Base):
    def on_train_batch_end(self, trainer, module, outputs, batch, number): ...

class TakesLess(Base):
    def on_step(self, run): ...

class TakesMore(Base):
    def on_start(self, run, more): ...

class WithoutMethods(Base): ...

class OnlySaves(Whole):
    load_state_dict = property()

class OnlyLoads(Base):
    def on_start(self, run): ...
    def load_state_dict(self, state): ...

class Fails(Base):
    def on_start(self, run): raise KeyError("gone")

class Leaves(Base):
    def on_start(self, run): raise SystemExit(0)
"""


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    path = tmp_path / f"hooks_{tmp_path.name}.py"  # no two tests share the module
    path.write_text(SOURCE)
    return path


def entry(hooks: Path, name: str, **arguments: Any) -> OwnCallback:
    return OwnCallback(name=f"{hooks}:{name}", args=arguments)


def view(step: int = 3, world_size: int = 1) -> Any:
    return SimpleNamespace(step=step, rank=0, world_size=world_size)


def training_file(callbacks: list[dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """What a checkpoint with the state of callbacks has in `training.pt`, as it is read."""
    files = Stepper(configure(tmp_path)).files()
    decoded = decode(encode({**files["training.pt"], "callbacks": callbacks}), "training.pt")
    check_training(decoded)
    return decoded


def test_methods_are_called_in_the_order_of_the_settings(hooks: Path) -> None:
    callbacks = Callbacks([entry(hooks, "Whole"), entry(hooks, "Whole", first=7)])
    for method, argument in (("on_start", None), ("on_step", "step"), ("on_evaluate", "evaluation"),
                             ("on_checkpoint", "path"), ("on_end", True)):  # fmt: skip
        assert callbacks.has(method)  # type: ignore[arg-type]
        callbacks.call(method, view(), argument)  # type: ignore[arg-type]
    expected = [("on_start", 3), ("on_step", "step"), ("on_evaluate", "evaluation"), ("on_checkpoint", "path"),
                ("on_end", True)]  # fmt: skip
    assert [callback.seen for _, callback in callbacks._callbacks] == [[0, *expected], [7, *expected]]


def test_without_callbacks_nothing_is_called() -> None:
    callbacks = Callbacks([])
    assert not callbacks.has("on_step")
    callbacks.call("on_step", view())
    assert callbacks.state() == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Misnamed", "has on_steps, which is never called; did you mean on_step?"),
        ("OfLightning", "has on_train_batch_end, which is never called; .*the methods of a callback are on_start"),
        ("TakesLess", "on_step must take run, step"),
        ("TakesMore", "on_start must take run$"),
        ("WithoutMethods", "gives a WithoutMethods, which has no such method"),
        ("OnlySaves", "has state_dict and not load_state_dict"),
        ("OnlyLoads", "has load_state_dict and not state_dict"),
        ("Missing", "has no Missing"),
    ],
)
def test_a_class_that_is_no_callback_is_refused(hooks: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Callbacks([entry(hooks, name)])


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize(
    "kind", ["async def {}(self, *a): pass", "def {}(self, *a): yield", "async def {}(self, *a): yield"]
)
def test_a_method_of_which_a_call_runs_nothing_is_refused(method: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "later.py"
    path.write_text(f"class Later:\n    {kind.format(method)}\n")
    with pytest.raises(ConfigError, match=f"later.py:Later: {method} is async or has yield"):
        Callbacks([OwnCallback(name=f"{path}:Later")])


def test_wrong_arguments_are_refused_with_the_line_of_the_settings(hooks: Path, tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(
        f"data: {{name: digits}}\nmodel: {{name: lenet}}\ncallbacks:\n- {hooks.name}:Whole\n"
        f"- {{name: {hooks.name}:Whole, args: {{frist: 1}}}}\n"
    )
    with pytest.raises(ConfigError, match=r"settings.yaml:\d+.*no argument frist; did you mean first"):
        load_config(config)
    config.write_text(config.read_text().replace("frist", "first"))
    assert [each.args for each in load_config(config).callbacks] == [{}, {"first": 1}]


@pytest.mark.parametrize(("name", "error"), [("Fails", "KeyError: 'gone'"), ("Leaves", "SystemExit: 0")])
@pytest.mark.parametrize("world_size", [1, 2])
def test_an_exception_is_shown_as_the_users(hooks: Path, name: str, error: str, world_size: int) -> None:
    with pytest.raises(OwnCodeError) as caught:
        Callbacks([entry(hooks, name)]).call("on_start", view(world_size=world_size))
    text = str(caught.value)
    assert f"{hooks}:{name}: on_start after step 3" in text
    assert ("on rank 0" in text) is (world_size > 1)
    assert text.endswith(error)
    assert "callbacks.py" not in text


def test_the_example_of_the_documentation_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "dist_train/own_code/README.md").read_text()
    path = tmp_path / "hooks_of_the_page.py"
    path.write_text(page.partition("```python\n")[2].partition("```")[0])
    callbacks = Callbacks([entry(path, "CountRare", rare=3)])
    batch = dataclasses.replace(
        make_batch(2), shards=(Shard((Pass(0, torch.tensor([3, 1]), 2),), 2, 0, torch.arange(2)),)
    )
    run, step = SimpleNamespace(step=1, rank=0, world_size=1, is_main=True), StepView(0.1, None, batch, torch.zeros(2))
    callbacks.call("on_step", run, step)  # type: ignore[arg-type]
    callbacks.call("on_evaluate", run, Evaluation("test", {"loss": 0.5}))  # type: ignore[arg-type]
    assert capsys.readouterr().out == "1 0.5 1\n"
    for method in get_args(Method):
        assert f"`{method}(" in page


def test_the_state_comes_back_by_name_and_order(hooks: Path, tmp_path: Path) -> None:
    entries = [entry(hooks, "Whole", first=1), entry(hooks, "Whole", first=2)]
    stored = training_file(Callbacks(entries).state(), tmp_path)
    moved = tmp_path / "moved" / hooks.name
    moved.parent.mkdir()
    moved.write_text(SOURCE)
    loaded = Callbacks([entry(moved, "Whole"), entry(moved, "Whole"), entry(moved, "Whole", first=9)],
                       {"training.pt": stored})  # fmt: skip
    assert [state["state"]["seen"] for state in loaded.state()] == [1, 2, 9]


def test_a_state_without_its_callback_is_dropped_with_a_warning(
    hooks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = training_file(Callbacks([entry(hooks, "Whole")]).state(), tmp_path)
    Callbacks([], {"training.pt": stored})
    assert "Whole in the checkpoint is dropped" in caplog.text


class _Color(enum.IntEnum):
    RED = 3


class _Text(str):
    __slots__ = ()


HELD: list[Any] = [
    *(None, True, 5, -1.5, float("nan"), "text", [1, [2]], {"a": {1: "b"}}, (1, 2)),
    *(np.float64(0.5), np.int64(4), _Color.RED, _Text("text")),
    *(torch.arange(3), torch.zeros(2, 3).t(), torch.zeros(1).expand(4), torch.tensor(1j)),
]
NOT_HELD: list[Any] = [
    *({1, 2}, b"bytes", object(), np.zeros(2), lambda: None, {(1, 2): 3}, {None: 1}, [[object()]]),
    *(torch.Generator(), torch.zeros(2).to_sparse(), torch.zeros(2, device="meta")),
]


class Holder:
    """A callback with a given state."""

    value: Any = None

    def on_start(self, run: Any) -> None: ...

    def state_dict(self) -> Any:
        return self.value

    def load_state_dict(self, state: Any) -> None:
        self.value = state


@pytest.mark.parametrize("value", HELD, ids=lambda value: type(value).__name__)
def test_a_checkpoint_holds_plain_values_and_tensors(value: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Holder, "value", value)
    entries = [OwnCallback(name=f"{__name__}:Holder")]
    stored = training_file(Callbacks(entries).state(), tmp_path)
    found = Callbacks(entries, {"training.pt": stored}).state()[0]["state"]
    if isinstance(value, torch.Tensor):
        assert torch.equal(found, value)
    elif value != value:
        assert found != found
    else:
        assert found == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("value", NOT_HELD, ids=lambda value: type(value).__name__)
def test_a_state_that_no_checkpoint_can_hold_is_refused(value: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(Holder, "value", {"inner": value})
    with pytest.raises(ConfigError, match=r"state_dict\(\)\['inner'\].*(a state may have|keys are)"):
        Callbacks([OwnCallback(name=f"{__name__}:Holder")]).state()


def test_a_state_in_itself_is_refused(monkeypatch: Any) -> None:
    endless: list[Any] = []
    endless.append(endless)
    monkeypatch.setattr(Holder, "value", endless)
    with pytest.raises(ConfigError, match="nested too deeply"):
        Callbacks([OwnCallback(name=f"{__name__}:Holder")]).state()


def test_a_state_is_a_copy(monkeypatch: Any) -> None:
    tensors = torch.zeros(2), torch.zeros(2)
    monkeypatch.setattr(Holder, "value", {"tensor": tensors[0], "list": [tensors[1]]})
    state = Callbacks([OwnCallback(name=f"{__name__}:Holder")]).state()[0]["state"]
    for tensor in tensors:
        tensor += 1
    assert state["tensor"].sum() == state["list"][0].sum() == 0
