"""The settings of a run lead to the copies of its code, unless they belong to another user."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dist_train.checkpoint.code_of_run import code_of_run
from dist_train.errors import ConfigError
from dist_train.own_code.copies import collect_code
from dist_train.settings.loader import load_config, load_run_config, to_yaml
from dist_train.settings.loading.references import list_references
from dist_train.settings.schema import Config

SETTINGS = """
data: {name: "sets.py:Set", args: {size: 3}, collate: "sets.py:collate"}
model: {name: "nets.py:Net", args: {name: "lenet.py:NoReference"}}
loss: {name: "own/losses.py:loss"}
metrics: [accuracy, "own/losses.py:metric"]
callbacks: ["json.decoder:JSONDecoder"]
"""
COPIED = ["own/losses.py:loss", "own/losses.py:metric", "nets.py:Net", "sets.py:Set", "sets.py:collate"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a run with code, which has just started."""
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("own").mkdir()
    tmp_path.joinpath("a.yaml").write_text(SETTINGS)
    tmp_path.joinpath("nets.py").write_text("class Net:\n    def __init__(self, name): ...\n")
    tmp_path.joinpath("sets.py").write_text(
        "class Set:\n    def __init__(self, split, size): ...\ndef collate(items): ...\n"
    )
    tmp_path.joinpath("own/losses.py").write_text("def loss(output, target): ...\ndef metric(output, target): ...\n")
    config = load_config(tmp_path / "a.yaml", [], {})
    run = tmp_path / "run"
    collect_code(list_references(config)).write(run / "code")
    (run / "config.yaml").write_text(to_yaml(config))
    return run


def load(run: Path) -> Config:
    return load_run_config(run / "config.yaml", [])


@contextmanager
def owned_by(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a file look as if it belonged to another user."""
    real = os.lstat(path)
    fields = list(real)
    fields[4] += 1
    with monkeypatch.context() as patch:
        for name in ("stat", "lstat"):
            original = getattr(Path, name)
            patch.setattr(
                Path,
                name,
                lambda self, original=original, **more: (
                    os.stat_result(fields) if self == path else original(self, **more)
                ),
            )
        yield


def test_references_lead_to_the_copies(run: Path) -> None:
    config = load(run)
    assert sorted(list_references(config)) == sorted([*COPIED, "json.decoder:JSONDecoder"])
    with code_of_run(config, run, trust_code=False) as copied:
        expected = {*(f"{run}/code/{text}" for text in COPIED), "json.decoder:JSONDecoder"}
        assert set(list_references(copied)) == expected
        assert copied.model.model_dump()["args"] == {"name": "lenet.py:NoReference"}
        assert copied.metrics is not None
        assert copied.metrics[0] == "accuracy"


def test_it_says_where_the_code_has_changed_since(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with code_of_run(load(run), run, trust_code=False):
        assert caplog.text == ""
    Path("sets.py").unlink()
    with code_of_run(load(run), run, trust_code=False):
        assert caplog.text == ""
    Path("nets.py").write_text("class Net: ...\n")
    with code_of_run(load(run), run, trust_code=False):
        assert (
            f"the code that the run has kept is used; it has changed since in {Path('nets.py').absolute()}"
            in caplog.text
        )


def test_settings_without_references_need_no_copies(run: Path) -> None:
    run.joinpath("config.yaml").write_text("data: {name: synthetic}\nmodel: {name: lenet}\nrun: {name: a, dir: run}\n")
    config = load(run)
    run.joinpath("code/manifest.json").write_text("damaged")
    with code_of_run(config, run, trust_code=False) as same:
        assert same is config


def test_a_run_without_copies_uses_the_originals(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    run.joinpath("code/manifest.json").unlink()
    config = load(run)
    with code_of_run(config, run, trust_code=False) as same:
        assert same is config
    assert f"{run}: has no copies of its code; the code is taken from where it was" in caplog.text


@pytest.mark.parametrize(
    "name", ["", "config.yaml", "code", "code/manifest.json", "code/nets.py", "code/own/losses.py"]
)
def test_what_belongs_to_another_user_runs_only_if_it_is_trusted(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = load(run)
    with owned_by(run / name, monkeypatch):
        with pytest.raises(ConfigError) as caught, code_of_run(config, run, trust_code=False):
            pass
        first, *middle, last = str(caught.value).splitlines()
        assert first == f"{run}: belongs to another user, and this command would run code of that run:"
        files = [f"  {run}/code/{file}" for file in ("nets.py", "own/losses.py", "sets.py")]
        assert sorted(middle) == sorted([*files, "  json.decoder:JSONDecoder"])
        assert last == "Read it, and add --trust-code if you want to run it"
        with code_of_run(config, run, trust_code=True) as copied:
            assert f"{run}/code/nets.py:Net" in list_references(copied)
    assert sorted(caplog.messages) == sorted(
        f"{run}: belongs to another user; runs {each.strip()}" for each in middle
    ), "a line each: the formatter of the terminal escapes line ends within"


def test_references_of_another_user_without_copies_are_not_run_either(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.joinpath("code/manifest.json").unlink()
    with (
        owned_by(run / "config.yaml", monkeypatch),
        pytest.raises(ConfigError, match=r"  nets\.py:Net\n"),
        code_of_run(load(run), run, trust_code=False),
    ):
        pass
