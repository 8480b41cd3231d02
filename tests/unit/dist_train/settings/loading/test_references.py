"""References in settings: their files are found beside the settings, and what is wrong is said with file and line."""

import os
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config, to_yaml
from dist_train.settings.schema import Config

# Nothing of these files may run.
CODE = """
raise SystemExit("this file must not run")
from dataclasses import dataclass

class Net(Module):
    def __init__(self, width, depth=2, *, bias=True): ...

class Inherits(Net):
    pass

class Shapes:
    def __init__(self, split, size): ...

class Focal:
    def __init__(self, gamma=2.0): ...
    def __call__(self, output, target): ...

class Lion:
    def __init__(self, params, lr, betas=(0.9, 0.99)): ...

class Log:
    def __init__(self, path="log"): ...

def f(output, target): ...
def scaled(output, target, factor): ...
def one(output): ...
def order(seed, epoch, length): ...
def warm_up(output, target, epochs): ...
def warm(step, total_steps): ...
def join(items): ...
def shift(item, generator): ...
"""
BASE = """
data: {data}
model: {model}
task: {task}
loss: {loss}
metrics: {metrics}
callbacks: {callbacks}
optim: {optim}
"""
DEFAULTS = {
    "data": "{name: synthetic}",
    "model": "{name: lenet}",
    "task": "classification",
    "loss": "null",
    "metrics": "null",
    "callbacks": "[]",
    "optim": "{name: sgd}",
}
LINES = {key: number for number, key in enumerate(DEFAULTS, start=2)}


def write(folder: Path, **sections: str) -> Path:
    """Settings in `project/a.yaml` with some sections, and code beside them."""
    project = folder / "project"
    project.mkdir(exist_ok=True)
    project.joinpath("own.py").write_text(CODE)
    project.joinpath("a.yaml").write_text(BASE.format(**DEFAULTS | sections))
    return project / "a.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value).splitlines()


def find(config: Config, key: str) -> object:
    """The value of a setting; the last one of a list."""
    found: object = config
    for part in key.split("."):
        found = getattr(found[-1] if isinstance(found, tuple) else found, part)
    return found[-1] if isinstance(found, tuple) else found


PLACES = {
    # setting: (the section, its text with REF, a name that fits)
    "model.name": ("model", "{name: REF, args: {width: 1}}", "Net"),
    "data.name": ("data", "{name: REF, args: {size: 3}}", "Shapes"),
    "data.collate": ("data", "{name: own.py:Shapes, args: {size: 3}, collate: REF}", "join"),
    "data.sampling": ("data", "{name: synthetic, sampling: REF}", "order"),
    "data.augment.name": ("data", "{name: synthetic, augment: REF}", "shift"),
    "task": ("task", "REF", "Focal"),
    "loss.name": ("loss", "{name: REF}", "f"),
    "metrics": ("metrics", "[accuracy, REF]", "f"),
    "callbacks.name": ("callbacks", "[REF]", "Log"),
    "optim.name": ("optim", "{name: REF, lr: 0.1}", "Lion"),
    "optim.schedule": ("optim", "{name: sgd, schedule: REF}", "warm"),
    "optim.groups.schedule": ("optim", '{name: sgd, groups: [{match: ["*"], schedule: REF}]}', "warm"),
}


@pytest.mark.parametrize("key", PLACES)
def test_a_file_is_searched_beside_the_settings(folder: Path, key: str) -> None:
    section, text, name = PLACES[key]
    config = load_config(write(folder, **{section: text.replace("REF", f"own.py:{name}")}))
    assert find(config, key) == f"project/own.py:{name}"


@pytest.mark.parametrize("key", PLACES)
def test_what_a_run_writes_leads_to_the_same_file_from_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    section, text, name = PLACES[key]
    path = write(folder, **{section: text.replace("REF", f"own.py:{name}")})
    folder.joinpath("elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    config = load_config(path)
    folder.joinpath("run").mkdir()
    folder.joinpath("run", "run.lock").touch()
    folder.joinpath("run", "config.yaml").write_text(to_yaml(config))
    assert load_config(folder / "run" / "config.yaml") == config
    assert f"{folder}/project/own.py:{name}" in to_yaml(config)


WRONG = {
    "own.py:Nett": "project/own.py has no Nett; ",
    "missing.py:Net": "project/missing.py can't be read: No such file or directory",
    "folder.py:Net": "project/folder.py can't be read: Is a directory",
    "pipe.py:Net": "project/pipe.py can't be read: not a regular file",
    "own.py/own.py:Net": "project/own.py/own.py can't be read: Not a directory",
    "nowhere.at.all:Net": "there is no module nowhere",
    "~nobody-of-this-name/own.py:Net": "the home directory at its start is unknown",
    "$NO_SUCH_VARIABLE/own.py:Net": "the variable NO_SUCH_VARIABLE is not set",
    "x" * 300 + ".py:Net": "can't be read: File name too long",
}


@pytest.mark.parametrize("reference", WRONG, ids=lambda text: text[:40])
@pytest.mark.parametrize("key", PLACES)
def test_a_reference_that_leads_to_nothing_is_refused_with_its_line(folder: Path, key: str, reference: str) -> None:
    section, text, _ = PLACES[key]
    path = write(folder, **{section: text.replace("REF", f'"{reference}"')})
    path.with_name("folder.py").mkdir()
    os.mkfifo(path.with_name("pipe.py"))
    (line,) = refuse(path)
    assert line.startswith(f"{path}:{LINES[section]}: {key} is ")
    assert WRONG[reference] in line


@pytest.mark.parametrize(
    "key",
    [
        *("model.name", "data.name", "data.collate", "data.sampling", "data.augment.name"),
        *("loss.name", "optim.name", "optim.schedule"),
    ],
)
def test_a_reference_on_the_command_line_is_relative_to_the_working_directory(folder: Path, key: str) -> None:
    section, text, name = PLACES[key]
    path = write(folder, **{section: text.replace("REF", f"own.py:{name}")})
    (line,) = refuse(path, f"{key}=own.py:{name}")
    assert line.startswith(f"command line: {key}=own.py:{name}: {key} is ")
    assert "own.py can't be read: No such file or directory" in line
    assert find(load_config(path, [f"{key}=project/own.py:{name}"]), key) == f"project/own.py:{name}"


@pytest.mark.parametrize(
    "name", ["my.nets.py", "a b.py", "größe.py", "-.py", "a:b.py", "torch.py", "random.py", "[x].py", "'.py", "x.py.py"]
)
@pytest.mark.parametrize("place", ["", "a.b/", "c d/", "größe/", "../", "./", "x.py/"])
def test_any_name_of_a_file_and_folder(folder: Path, place: str, name: str) -> None:
    path = write(folder)
    file = path.parent / place / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(CODE)
    quoted = f"{place}{name}:Net".replace("'", "''")
    path = write(folder, model=f"{{name: '{quoted}', args: {{width: 1}}}}")
    text = load_config(path).model.name
    assert Path(text.removesuffix(":Net")).resolve() == file.resolve()


ARGUMENTS = {
    "{name: own.py:Net}": "Net in project/own.py needs the argument width; add it to args",
    "{name: own.py:Net, args: {}}": "needs the argument width",
    "{name: own.py:Net, args: {width: 1, widht: 2}}": "has no argument widht; did you mean width?",
    "{name: own.py:Net, args: {width: 1, zzz: 2}}": "has no argument zzz; it takes width, depth, bias",
    "{name: own.py:Inherits, args: {widht: 1}}": "has no argument widht; did you mean width?",
    "own.py:Net": "needs the argument width",
}


@pytest.mark.parametrize("model", ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused_with_their_line(folder: Path, model: str) -> None:
    path = write(folder, model=model)
    (line,) = refuse(path)
    assert line.startswith(f"{path}:{LINES['model']}: model.")
    assert ARGUMENTS[model] in line


def test_an_argument_is_named_where_it_is_written(folder: Path) -> None:
    path = write(folder, model="\n  name: own.py:Net\n  args:\n    width: 1\n    dept: 3")
    (line,) = refuse(path)
    assert line == (f"{path}:7: model.args.dept: Net in project/own.py has no argument dept; did you mean depth?")
    path = write(folder, model="\n  name: own.py:Net\n  args:\n    width: 1")
    assert refuse(path, "model.args.bais=false")[-1] == (
        "command line: model.args.bais=false: model.args.bais: Net in project/own.py has no argument bais; "
        "did you mean bias?"
    )


def test_arguments_of_the_command_line_join_those_of_the_file(folder: Path) -> None:
    path = write(folder, model="{name: own.py:Net, args: {width: 1}}")
    overrides = ["model.args.width=12", "model.args.depth={a: [1, 2.5, null], b: {c: true}}", "model.args.bias=x:y"]
    model = load_config(path, overrides).model
    assert model.model_dump()["args"] == {
        "width": 12, "depth": {"a": [1, 2.5, None], "b": {"c": True}}, "bias": "x:y",
    }  # fmt: skip
    assert load_config(write(folder, model="own.py:Net"), ["model.args.width=3"]).model.model_dump()["args"] == {
        "width": 3
    }


@pytest.mark.parametrize(
    ("loss", "fault"),
    [
        ("{name: own.py:f}", None),
        ("own.py:f", None),
        ("{name: own.py:scaled, args: {factor: 2}}", None),
        ("{name: own.py:Focal, args: {gamma: 2}}", None),
        ("{name: own.py:Focal}", None),
        ("{name: own.py:scaled}", "needs the argument factor"),
        ("{name: own.py:one}", "one in project/own.py takes 1 arguments, not 2"),
        ("{name: own.py:f, args: {target: 1}}", "gets target from the program; remove it from args"),
        ("{name: own.py:Focal, args: {gama: 2}}", "has no argument gama; did you mean gamma?"),
    ],
)
def test_a_loss_is_a_function_of_two_or_a_class(folder: Path, loss: str, fault: str | None) -> None:
    path = write(folder, loss=loss)
    if fault is None:
        assert str(load_config(path).loss.name).startswith("project/own.py:")
    else:
        (line,) = refuse(path)
        assert line.startswith(f"{path}:{LINES['loss']}: loss.")
        assert fault in line


CALLED = {
    "data.collate": "order",
    "data.sampling": "f",
    "loss.name": "warm_up",
    "metrics": "one",
    "optim.schedule": "one",
    "optim.groups.schedule": "order",
}


@pytest.mark.parametrize("key", CALLED)
def test_a_function_of_other_arguments_is_refused(folder: Path, key: str) -> None:
    section, text, _ = PLACES[key]
    path = write(folder, **{section: text.replace("REF", f"own.py:{CALLED[key]}")})
    (line,) = refuse(path)
    assert line.startswith(
        f"{path}:{LINES[section]}: {key} is 'own.py:{CALLED[key]}'; {CALLED[key]} in project/own.py "
    )
    assert any(text in line for text in ("arguments, not ", "nothing passes it: give it a default", "add it to"))


def test_the_program_gives_a_data_set_its_split(folder: Path) -> None:
    path = write(folder, data="{name: own.py:Shapes, args: {size: 3, split: train}}")
    (line,) = refuse(path)
    assert "gets split from the program; remove it from args" in line


def test_all_faults_are_named_at_once(folder: Path) -> None:
    path = write(folder, model="own.py:Net", loss="own.py:g", metrics="[own.py:f, own.py:g, no.py:f]")
    found = [line.removeprefix(f"{path}:").partition(":")[0] for line in refuse(path, "data.sampling=no.py:f")]
    assert found == ["3", "5", "6", "6", "command line"]


def test_a_home_and_variables_are_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, model="{name: '~/own.py:Net', args: {width: 1}}", metrics="['$PLACE/own.py:f']")
    monkeypatch.setenv("HOME", str(path.parent))
    config = load_config(path, environ={"PLACE": str(path.parent)})
    assert config.model.name == "project/own.py:Net"
    assert config.metrics == ("project/own.py:f",)
