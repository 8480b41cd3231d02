"""References are checked in the source alone: nothing of it runs."""

import os
from pathlib import Path
from typing import Any

import pytest

from dist_train.own_code.reference import find_fault, is_same_code, parse_reference

RUNS = "raise SystemExit('this file must not run')\n"
NETS = (
    RUNS
    + """
from dataclasses import dataclass
from functools import partial
import torch
from torch import nn
from helpers import Helped

class Base(nn.Module):
    def __init__(self, width, depth=2, *, bias=True):
        super().__init__()

class Net(Base):
    def method(self):
        inner = 1

class Plain(nn.Module):
    pass

class First(Second):
    pass

class Second(First):
    pass

class Open(nn.Module):
    def __init__(self, width, **more): ...

class New:
    def __new__(cls, width): ...

@dataclass
class Record:
    width: int

@wraps
def wrapped(width): ...

def make(width, /, height, *sizes): ...

def f(output, target): ...

small = partial(Net, width=2)
if torch:
    Chosen = Net
for Looped in ():
    pass
"""
)


@pytest.fixture(autouse=True)
def nets(folder: Path) -> Path:
    folder.joinpath("nets.py").write_text(NETS)
    return folder


@pytest.mark.parametrize(
    ("text", "file", "module", "name"),
    [
        ("nets.py:Net", "nets.py", None, "Net"),
        ("/a b/nets.py:Net", "/a b/nets.py", None, "Net"),
        ("../größe/my.nets.py:Outer.Inner", "../größe/my.nets.py", None, "Outer.Inner"),
        ("a:b.py:c", "a:b.py", None, "c"),
        ("package.module:Name", None, "package.module", "Name"),
        ("models:größe", None, "models", "größe"),
        *((text, None, None, "") for text in ("", "resnet18", "nets.py", "nets.py:", ":Net", "nets.py:a b", "a-b:Net")),
        *(
            (text, None, None, "")
            for text in ("timm/resnet18", "nets.py:Net()", "nets.py:1", "http://a:b", "a/b.txt:Net")
        ),
    ],
)
def test_forms(text: str, file: str | None, module: str | None, name: str) -> None:
    found = parse_reference(text)
    if not name:
        assert found is None
        return
    assert found is not None
    assert (found.file, found.module, found.name) == (file and Path(file), module, name)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("nets.py:Net", {"width": 1, "depth": 2, "bias": False}),
        ("nets.py:Base", {"width": 1}),
        ("nets.py:Open", {"width": 1, "anything": 2}),
        # What the source alone does not tell is checked after the import.
        ("nets.py:Plain", {"width": 1}),
        ("nets.py:First", {"width": 1}),
        ("nets.py:New", {"height": 1}),
        ("nets.py:Record", {"height": 1}),
        ("nets.py:wrapped", {"height": 1}),
        ("nets.py:small", {"height": 1}),
        ("nets.py:Chosen", {"height": 1}),
        ("nets.py:Looped", {"height": 1}),
        ("nets.py:Helped", {"height": 1}),
        ("nets.py:Net.method", {"height": 1}),
        ("nets:Net", {"width": 1}),
        ("json.decoder:JSONDecoder", {"strict": True}),
    ],
)
def test_nothing_is_wrong(text: str, arguments: dict[str, Any]) -> None:
    assert find_fault(text, arguments) is None


@pytest.mark.parametrize(
    ("text", "arguments", "fault"),
    [
        ("nets.py:Nett", {}, "nets.py has no Nett; did you mean Net?"),
        ("nets.py:net", {}, "nets.py has no net; did you mean Net?"),
        ("nets.py:xxxxx", {}, "nets.py has no xxxxx; it has Base, Chosen, First, Helped, Looped, Net, New"),
        ("nets.py:method", {}, "nets.py has no method; it has"),
        ("nets.py:inner", {}, "nets.py has no inner; it has"),
        ("nets.py:Net", {}, "Net in nets.py needs the argument width; add it to args"),
        ("nets.py:Net", {"widht": 1}, "Net in nets.py has no argument widht; did you mean width?"),
        ("nets.py:Net", {"width": 1, "zzz": 1}, "Net in nets.py has no argument zzz; it takes width, depth, bias"),
        ("nets.py:Net", {"width": 1, "self": 1}, "Net in nets.py has no argument self; it takes"),
        ("nets.py:Open", {"more": 1}, "Open in nets.py needs the argument width"),
        ("nets.py:make", {"width": 1, "height": 1}, "make in nets.py has no argument width; it takes height"),
        ("nets:Nett", {}, "nets has no Nett; did you mean Net?"),
        ("nets.sub:Net", {}, "there is no module nets.sub: nets is no package"),
        ("nowhere:Net", {}, "there is no module nowhere; is it installed, or in PYTHONPATH?"),
        ("json.decoder:JSONDecodr", {}, "json.decoder has no JSONDecodr; did you mean JSONDecoder?"),
        ("json.decoder:JSONDecoder", {"strickt": True}, "JSONDecoder in json.decoder has no argument strickt; did you"),
        ("missing.py:Net", {}, "missing.py can't be read: No such file or directory"),
        ("nest.py:Net", {}, "nest.py can't be read: No such file or directory (did you mean nets.py?)"),
        ("folder.py:Net", {}, "folder.py can't be read: Is a directory"),
        ("pipe.py:Net", {}, "pipe.py can't be read: not a regular file"),
        ("loop.py:Net", {}, "loop.py can't be read: Too many levels of symbolic links"),
        ("nets.py/nets.py:Net", {}, "nets.py/nets.py can't be read: Not a directory"),
        ("a\x1bb.py:Net", {}, "a\\x1bb.py can't be read"),
    ],
)
def test_faults(nets: Path, text: str, arguments: dict[str, Any], fault: str) -> None:
    nets.joinpath("folder.py").mkdir()
    nets.joinpath("loop.py").symlink_to("loop.py")
    os.mkfifo(nets / "pipe.py")
    found = find_fault(text, arguments)
    assert found is not None
    assert found.text.startswith(fault)
    assert found.argument in (None, *arguments)


def test_arguments_that_the_program_gives() -> None:
    assert find_fault("nets.py:f", {}, positional=(2, 0)) is None
    assert find_fault("nets.py:f", {}, positional=(3, 0)) == ("f in nets.py takes 2 arguments, not 3", None)
    assert find_fault("nets.py:f", {"target": 1}, positional=(2, 0)) == (
        "f in nets.py gets target from the program; remove it from args",
        "target",
    )
    assert find_fault("nets.py:Net", {"depth": 1}, given=("width",)) is None
    assert find_fault("nets.py:Net", None, positional=(0, None)) is None
    assert find_fault("nets.py:f", {"more": 1}, positional=(None, 0)) is None
    assert find_fault("nets.py:Net", None) == (
        "Net in nets.py needs the argument width; nothing passes it: give it a default, or name an object made with it",
        None,
    )
    assert find_fault("nets.py:Net", {"width": 1}, positional=(2, 0)) is None
    assert find_fault("nets.py:Net", {}, positional=(0, 1)) is None


SOURCES = {
    "a syntax error": b"class Net(:\n",
    "null bytes": b"class Net: pass\0",
    "not UTF-8": b"class Net: pass # \xff\n",
    "deep nesting": b"a = " + b"-" * 100_000 + b"1\n",
    "many brackets": b"(" * 1000,
    "a star": b"from somewhere import *\n",
    "another in its place": b"import sys, other\nsys.modules[__name__] = other\n",
    "__getattr__": b"def __getattr__(name): ...\n",
    "globals": b"globals()['Net'] = 1\n",
    "a global name": b"def f():\n    global Net\n    Net = 1\n",
    "exec": b"exec('Net = 1')\n",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_source_that_does_not_tell_is_left_to_the_import(nets: Path, source: bytes) -> None:
    nets.joinpath("nets.py").write_bytes(source)
    assert find_fault("nets.py:Net", {"width": 1}) is None


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("nets.py:Net", "/elsewhere/nets.py:Net", True),
        ("nets.py:Net", "nets.py:Other", False),
        ("nets.py:Net", "sets.py:Net", False),
        ("nets.py:Net", "nets:Net", False),
        ("a.nets:Net", "b.nets:Net", False),
        ("lenet", "lenet", True),
        ("lenet", "resnet18", False),
    ],
)
def test_the_same_code(one: str, other: str, is_same: bool) -> None:
    assert is_same_code(one, other) == is_same_code(other, one) == is_same
