"""Imports and calls of the user's code, and how its errors are shown."""

import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    OwnCodeError,
    OwnImportError,
    SaveError,
    UserError,
)
from dist_train.own_code.load import call, check_call, load, own_failures, shown_as_own
from dist_train.system.stop_signals import StopRequested

Write = Callable[..., Path]


@pytest.fixture
def write(folder: Path) -> Write:
    def write_file(name: str, source: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    return write_file


NET = "class Net:\n    def __init__(self, width=1):\n        self.width = width\n"


@pytest.mark.parametrize("file", ["nets.py", "my nets.py", "größe/nets.py", "a.b.py", "class.py", "sub folder/7.py"])
def test_what_a_file_defines_can_be_pickled(write: Write, file: str) -> None:
    write(file, NET)
    assert load(f"{file}:Net") is load(f"./{file}:Net") is load(f"{Path.cwd()}/{file}:Net")
    made = call(f"{file}:Net", "model.name", {"width": 3})
    again = pickle.loads(pickle.dumps(made))  # noqa: S301
    assert (type(again), again.width) == (type(made), 3)


@pytest.mark.parametrize("name", ["torch", "numpy", "json", "calendar", "dist_train", "site", "__main__"])
def test_a_file_called_like_an_installed_module_replaces_none(write: Write, name: str) -> None:
    write(f"{name}.py", NET)
    before = sys.modules.get(name)
    load(f"{name}.py:Net")
    assert sys.modules.get(name) is before
    __import__(name)
    assert not (getattr(sys.modules[name], "__file__", None) or "").startswith(str(Path.cwd()))


def test_two_files_of_one_name_are_two_modules(write: Write) -> None:
    write("one/nets.py", NET + "who = 1")
    write("two/nets.py", NET + "who = 2")
    assert (load("one/nets.py:who"), load("two/nets.py:who")) == (1, 2)


def test_a_file_imports_modules_beside_it_also_in_a_circle(write: Write) -> None:
    write("own/nets_of_a_circle.py", "import helpers_of_a_circle as helpers\nclass Net: pass\ncheck = helpers.check\n")
    write(
        "own/helpers_of_a_circle.py",
        "import nets_of_a_circle\ndef check(net): return isinstance(net, nets_of_a_circle.Net)\n",
    )
    assert load("own/nets_of_a_circle.py:check")(load("own/nets_of_a_circle.py:Net")())


@pytest.mark.parametrize(
    "line", ["import helper", "from helper import name", "import helper.part", "def later():\n    import helper"]
)
def test_a_module_beside_a_file_is_not_taken_for_one_beside_another(write: Write, line: str) -> None:
    for place in ("m", "d"):
        write(f"{place}/helper.py", f"name = {place!r}\n")
        write(f"{place}/{place}_code.py", f"import helper\n{NET}" if place == "m" else f"{line}\n{NET}")
    load("m/m_code.py:Net")
    with pytest.raises(
        ConfigError, match=r"d/d_code\.py imports helper, which is .*d/helper\.py for it and .*m/helper"
    ):
        load("d/d_code.py:Net")


def test_names_with_dots_and_modules(write: Write) -> None:
    write("pack/__init__.py", "")
    write("pack/nets.py", "class Outer:\n    class Inner: pass\n")
    assert load("pack.nets:Outer.Inner").__qualname__ == "Outer.Inner"
    assert load("json.decoder:JSONDecoder").__name__ == "JSONDecoder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18", "is no reference; write path/to/file.py:Name or package.module:Name"),
        ("missing.py:Net", "there is no file missing.py"),
        (".py:Net", "there is no file .py"),
        ("nets.py:Nett", "nets.py has no Nett; did you mean Net?"),
        ("nets.py:Net.Inner", "nets.py has no Inner; it has"),
        ("nowhere_at_all:Net", "there is no module nowhere_at_all; is it installed, or in PYTHONPATH?"),
        ("json.nowhere:Net", "there is no module json.nowhere; is it installed"),
    ],
)
def test_what_is_not_there(write: Write, text: str, message: str) -> None:
    write("nets.py", NET)
    with pytest.raises(ConfigError) as caught:
        load(text, "model.name")
    assert str(caught.value).startswith(f"model.name {text}: {message}")


IMPORTS = {
    "a syntax error": ("class Net(:\n", "line 1", "SyntaxError: invalid syntax"),
    "an exception": ("x = 1\n1 / 0\n", "line 2", "ZeroDivisionError: division by zero"),
    "a missing module": ("import not_installed_at_all\n", "line 1", "ModuleNotFoundError: No module named"),
    "a missing name": ("from json import Nothing\n", "line 1", "ImportError: cannot import name 'Nothing'"),
    "exit": ("import sys\nsys.exit(0)\n", "line 2", "SystemExit: 0"),
    "an exception without text": ("raise AssertionError\n", "line 1", "AssertionError"),
    "not UTF-8": ("x = '\udcff'\n", "", "SyntaxError"),
    "null bytes": ("\0", "", "null bytes"),
}


@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.parametrize("case", IMPORTS)
def test_an_import_that_fails_is_shown_as_hers(folder: Path, case: str, as_module: bool) -> None:
    source, line, error = IMPORTS[case]
    folder.joinpath("broken_nets.py").write_bytes(source.encode(errors="surrogateescape"))
    with pytest.raises(OwnImportError) as caught:
        load("broken_nets:Net" if as_module else "broken_nets.py:Net")
    text = str(caught.value)
    assert text.startswith(f"the import of broken_nets{'' if as_module else '.py'} failed:\n")
    assert line in text
    assert error in text.splitlines()[-1]
    assert "dist_train" not in text.replace(str(folder), "")
    assert "importlib" not in text
    # It is not left behind half-made.
    folder.joinpath("broken_nets.py").write_text(NET)
    assert load("broken_nets.py:Net").__name__ == "Net"


@pytest.mark.parametrize("error", ["OSError", "TimeoutError", "open('missing')"])
def test_an_import_that_a_file_system_fails_may_succeed_after_a_restart(write: Write, error: str) -> None:
    write("broken_nets.py", f"raise {error}\n")
    with pytest.raises(OwnCodeError) as caught:
        load("broken_nets.py:Net")
    assert not isinstance(caught.value, OwnImportError)


@pytest.mark.parametrize("reference", ["walker.py:Net", "walker:Net", "walker.py:go"])
@pytest.mark.parametrize("where", ["'/'", "tempfile.mkdtemp()", "(folder := tempfile.mkdtemp())); os.rmdir(folder"])
def test_code_that_leaves_the_working_directory_is_refused(write: Write, reference: str, where: str) -> None:
    """Other paths of the settings are relative to it, as those of the run."""
    move = f"os.chdir({where})\n"
    body = f"def go():\n    {move}" if reference.endswith("go") else f"{move}{NET}"
    write("walker.py", f"import os, tempfile\n{body}")
    before = Path.cwd()
    with pytest.raises(ConfigError, match=r"^model.name walker.*changes the working directory to .*absolute paths"):
        call(reference, "model.name", {})
    assert Path.cwd() == before


def test_a_relative_import_in_a_file_says_what_to_write(write: Write) -> None:
    write("pack/nets.py", "from .base import Net")
    with pytest.raises(OwnImportError, match=r"known parent package\n.*write the reference as package.module:Name"):
        load("pack/nets.py:Net")


CALLS = {
    "no class": ("Net = 3\n", {}, "model.name nets.py:Net: is a int, and no class or function"),
    "an unknown argument": (NET, {"widht": 1}, "model.name: Net in nets.py has no argument widht; did you mean width?"),
    "a missing argument": ("def Net(width): ...", {}, "model.name: Net in nets.py needs the argument width"),
    "an abstract class": (
        "import abc\nclass Net(abc.ABC):\n    @abc.abstractmethod\n    def run(self): ...\n",
        {},
        "model.name nets.py:Net: Net is abstract; name a class that defines its run",
    ),
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass Net:\n    width: int\n",
        {"height": 1},
        "model.name: Net in nets.py has no argument height; it takes width",
    ),
    "a partial": (
        "from functools import partial\ndef make(width, height): ...\nNet = partial(make, 1)\n",
        {"hight": 1},
        "model.name: Net in nets.py has no argument hight; did you mean height?",
    ),
    "an inherited constructor": (
        "class Base:\n    def __init__(self, width): ...\nclass Other: ...\nclass Net(Base, Other): ...\n",
        {"widht": 1},
        "model.name: Net in nets.py has no argument widht; did you mean width?",
    ),
    "no signature": (
        "Net = dict\nclass Net(Net): ...\nNet = int",
        {"x": 1},
        "model.name nets.py:Net: does not take these",
    ),
    "any argument, that of a library": (
        "from torch import nn\nclass Net(nn.Module): ...\n",
        {"width": 1},
        "model.name nets.py:Net: does not take these arguments: Net.__init__() got an unexpected keyword",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_arguments_that_do_not_fit(write: Write, case: str) -> None:
    source, arguments, message = CALLS[case]
    write("nets.py", source)
    with pytest.raises(ConfigError) as caught:
        call("nets.py:Net", "model.name", arguments)
    assert str(caught.value).startswith(message)


ODD = "raise type('OddError', (BaseException,), {})('x')"
"""No Exception."""


@pytest.mark.parametrize("body", ["raise KeyError('x')", "int('x')", "None + 1", "len(1, 2)", "raise SystemExit", ODD])
def test_a_call_that_raises_is_shown_as_hers(write: Write, body: str) -> None:
    write("nets.py", f"def Net():\n    {body}\n")
    with pytest.raises(OwnCodeError) as caught:
        call("nets.py:Net", "model.name", {})
    first, *middle, last = str(caught.value).splitlines()
    assert first == "model.name nets.py:Net failed:"
    assert any("nets.py" in line and "line 2" in line for line in middle)
    assert "Error" in last or "Exit" in last
    assert "load.py" not in str(caught.value)


def test_what_the_program_gives_is_given_where_it_is_taken(write: Write) -> None:
    write(
        "sets.py",
        "def one(split, size): return split, size\ndef two(size): return size\ndef three(**all): return all\n",
    )
    given: dict[str, Any] = {"split": "train"}
    assert call("sets.py:one", "data.name", {"size": 2}, given) == ("train", 2)
    assert call("sets.py:two", "data.name", {"size": 2}, given) == 2
    assert call("sets.py:three", "data.name", {"size": 2}, given) == {"split": "train", "size": 2}
    with pytest.raises(ConfigError, match=r"gets split from the program; remove it from args"):
        call("sets.py:one", "data.name", {"size": 2, "split": "test"}, given)


@pytest.mark.parametrize("error", [ConfigError("x"), DataError("x"), OwnCodeError("x"), StopRequested("x")])
def test_errors_that_are_not_of_her_code_pass(error: Exception) -> None:
    with pytest.raises(type(error), match=r"^x$"), shown_as_own("a pass"):
        raise error


def test_an_error_of_her_code_is_no_user_error_and_travels_between_processes() -> None:
    error = ValueError("a\nb")
    with pytest.raises(OwnCodeError) as caught, shown_as_own("item 3"):
        raise error
    assert not isinstance(caught.value, UserError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301
    assert str(caught.value).startswith("item 3 failed:\nTraceback")
    assert str(caught.value).endswith("ValueError: a\nb")


HOOKED = """
from torch import nn

def call(function):
    return function()

class Net(nn.Module):
    def forward(self, inputs):
        return inputs.view(7)

def in_hook(inputs):
    outputs = inputs * 2
    outputs.register_hook(lambda gradient: 1 / 0)
    outputs.sum().backward()

def leave(inputs):
    raise SystemExit

class Odd(BaseException):
    pass

def fail(inputs):
    raise Odd
"""


@pytest.mark.parametrize(
    ("name", "line"),
    [("Net", "inputs.view(7)"), ("in_hook", "1 / 0"), ("leave", "raise SystemExit"), ("fail", "raise Odd")],
)
def test_an_exception_that_passes_through_her_code_is_hers_from_her_first_frame_on(
    write: Write, name: str, line: str
) -> None:
    write("nets.py", HOOKED)
    function = load(f"nets.py:{name}")
    function = function() if name == "Net" else function
    with pytest.raises(OwnCodeError) as caught, own_failures(lambda: "after 3 steps, on rank 1"):
        function(torch.ones(3, requires_grad=True))
    first, second, third, *rest = str(caught.value).splitlines()
    assert first == "your code failed after 3 steps, on rank 1:"
    assert second == "Traceback (most recent call last):"
    assert f"{Path.cwd()}/nets.py" in third
    assert any(line in each for each in rest)
    assert "test_load" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("x"), ConfigError("x"), NonFiniteError("x"), SaveError("x"), StopRequested("x")),
        *(SystemExit(3), BaseException("x")),
    ],
)
def test_an_exception_that_does_not_pass_through_her_code_is_not_hers(write: Write, error: BaseException) -> None:
    write("nets.py", HOOKED)
    load("nets.py:Net")
    with pytest.raises(type(error)) as caught, own_failures(lambda: "at once"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [ConfigError("x"), NonFiniteError("x"), SaveError("x"), StopRequested("x"), KeyboardInterrupt()]
)
def test_errors_that_say_what_to_do_pass_through_her_code(write: Write, error: BaseException) -> None:
    write("nets.py", HOOKED)

    def fail() -> None:
        raise error

    with pytest.raises(type(error)), own_failures(lambda: "at once"):
        load("nets.py:call")(fail)


class Caller:
    """Can be called with two arguments."""

    def __call__(self, one: Any, two: Any) -> Any: ...


def _make(signature: str) -> Any:
    return eval(f"lambda {signature}: None")  # noqa: S307 - so that no linter asks what the arguments are for


FITTING: tuple[Any, ...] = (
    *map(_make, ("a, b", "a, b, c=3", "*all", "a, *all, **more", "a, b, /", "a=1, b=2")),
    Caller(),
    partial(_make("a, b, c"), c=3),
    partial(torch.nn.functional.cross_entropy, no_such_argument=1),  # type: ignore[call-arg]  # it has no signature
    dict,
    torch.add,
)
OTHERS: tuple[Any, ...] = (
    *map(_make, ("", "a", "a, b, c", "a, *, b", "a, b, *, c", "**more")),
    partial(_make("a, b"), 1),
    Caller,
    Caller.__call__,
)


@pytest.mark.parametrize("function", FITTING)
def test_a_function_that_takes_what_it_is_called_with(function: Any) -> None:
    check_call(function, "loss own.py:f", "output", "target")


@pytest.mark.parametrize("function", OTHERS)
def test_a_function_that_takes_something_else_is_refused(function: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^loss own.py:f.*: takes \(.*\).*, and is called with \(output, target\)"
    ) as caught:
        check_call(function, "loss own.py:f", "output", "target")
    assert ("name an object of this class" in str(caught.value)) == isinstance(function, type)
