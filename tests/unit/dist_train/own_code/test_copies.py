"""A run keeps the user's code, and what comes after its training uses that."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from dist_train.own_code.copies import Copies, collect_code, read_copies
from dist_train.own_code.load import load

Write = Callable[[str, str], None]


@pytest.fixture
def write(folder: Path) -> Write:
    def write_file(name: str, source: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)

    return write_file


def keep(*references: str) -> Copies:
    """Write the copies of what references name, and read them."""
    collect_code(references).write(Path("run/code"))
    copies = read_copies(Path("run/code"))
    assert copies is not None
    return copies


def names(copies: Copies) -> list[str]:
    return sorted(copies.files)


def test_files_and_the_modules_that_they_import(write: Write) -> None:
    write("own/nets.py", "import layers_of_mine\ndef f():\n    from packed_of_mine.inner import x\n")
    write("own/layers_of_mine.py", "import torch, json\nimport nets\n")
    write("own/packed_of_mine/__init__.py", "")
    write("own/packed_of_mine/inner.py", "from . import other\nfrom .third import y\nx = 1\n")
    write("own/packed_of_mine/other.py", "")
    write("own/packed_of_mine/third.py", "y = 1")
    write("own/packed_of_mine/unused.py", "")
    write("own/unused.py", "")
    write("own/torch.py", "")
    copies = keep("own/nets.py:Net", "own/nets.py:f")
    packed = [f"packed_of_mine/{name}.py" for name in ("__init__", "inner", "other", "third")]
    assert names(copies) == ["layers_of_mine.py", "nets.py", *packed]
    assert copies.translate("own/nets.py:f") == "run/code/nets.py:f"
    assert copies.translate("resnet18") == "resnet18"
    assert copies.translate("other.py:f") == "other.py:f"
    copies.check()
    assert copies.find_changes() == []


def test_files_of_several_folders_keep_their_places(write: Write) -> None:
    write("one/nets.py", "")
    write("two/deep/nets.py", "")
    write("pack_of_mine/__init__.py", "")
    write("pack_of_mine/losses.py", "from .more import f")
    write("pack_of_mine/more.py", "def f(): ...")
    copies = keep("one/nets.py:A", "two/deep/nets.py:A", "pack_of_mine.losses:f", "json.decoder:JSONDecoder", "lenet")
    assert names(copies) == [
        "one/nets.py", *(f"pack_of_mine/{name}.py" for name in ("__init__", "losses", "more")), "two/deep/nets.py",
    ]  # fmt: skip
    assert copies.modules == {"pack_of_mine": ["."]}


def test_one_module_alone_keeps_its_package(write: Write) -> None:
    write("pack_of_mine/__init__.py", "")
    write("pack_of_mine/losses.py", "f = 1")
    copies = keep("pack_of_mine.losses:f")
    assert names(copies) == ["pack_of_mine/__init__.py", "pack_of_mine/losses.py"]
    write("pack_of_mine/losses.py", "f = 2")
    with copies.in_use():
        assert load(copies.translate("pack_of_mine.losses:f")) == 1
    assert load("pack_of_mine.losses:f") == 2


def test_the_copies_are_used_inside_the_block_only(write: Write) -> None:
    write("nets.py", "import layers_of_mine\nwidth = layers_of_mine.width\n")
    write("layers_of_mine.py", "width = 1\n")
    assert load("nets.py:width") == 1
    copies = keep("nets.py:width")
    write("nets.py", "import layers_of_mine\nwidth = 10 * layers_of_mine.width\n")
    write("layers_of_mine.py", "width = 22\n")
    assert copies.find_changes() == [str(Path("nets.py").absolute()), str(Path("layers_of_mine.py").absolute())]
    before, path = sys.modules["layers_of_mine"], list(sys.path)
    with copies.in_use():
        assert load(copies.translate("nets.py:width")) == 1
        assert sys.modules["layers_of_mine"].__file__ == str(Path("run/code/layers_of_mine.py").absolute())
    assert sys.modules["layers_of_mine"] is before
    assert sys.path == path


def test_the_same_files_are_kept_once_and_others_beside_them(write: Write) -> None:
    write("nets.py", "width = 1")
    keep("nets.py:width")
    Path("run/.code.1234").mkdir()
    Path("run/.code.1234/nets.py").touch()
    before = Path("run/code").stat()
    keep("nets.py:width")
    assert Path("run/code").stat() == before, "nothing is written again"
    keep("nets.py:width", "nets.py:other")
    assert sorted(path.name for path in Path("run").iterdir()) == ["code"]
    write("nets.py", "width = 2")
    keep("nets.py:width")
    write("nets.py", "width = 3")
    keep("nets.py:width")
    assert sorted(path.name for path in Path("run").iterdir()) == ["code", "code.old-1", "code.old-2"]
    assert [Path(f"run/{name}/nets.py").read_text()[-1] for name in ("code", "code.old-2", "code.old-1")] == list("321")


def test_no_reference_leaves_no_copies(folder: Path) -> None:
    collect_code(["lenet"]).write(Path("run/code"))
    assert list(folder.iterdir()) == []
    assert read_copies(Path("run/code")) is None


def test_a_file_that_can_not_be_read(folder: Path) -> None:
    folder.joinpath("nets.py").mkdir()
    with pytest.raises(ConfigError, match=r"nets.py: can't be read: Is a directory"):
        collect_code(["nets.py:Net"])


def test_a_changed_or_missing_copy_is_refused(write: Write) -> None:
    write("nets.py", "width = 1")
    copies = keep("nets.py:width")
    Path("run/code/nets.py").write_text("width = 2")
    with pytest.raises(ConfigError, match=r"run/code/nets.py: is missing or not what the run has written"):
        copies.check()
    Path("run/code/nets.py").unlink()
    with pytest.raises(ConfigError, match=r"run/code/nets.py: is missing or not"):
        copies.check()


@pytest.mark.parametrize(
    "change",
    [
        {"references": None}, {"references": {"nets.py:width": 3}}, {"references": {"nets.py:width": "../x.py"}},
        {"references": {"nets.py:width": "x.py"}}, {"modules": []}, {"modules": {"torch": [3]}},
        {"modules": {"torch": ["/etc"]}}, {"modules": {"torch": "."}}, {"files": {}}, {"files": {"nets.py": None}},
        {"files": {"/etc/passwd": "x"}, "sha256": {"/etc/passwd": "x"}}, {"sha256": {"nets.py": 1}},
        {"files": {"nets.py": "a\0b"}},
    ],
)  # fmt: skip
def test_a_manifest_that_was_changed_is_refused(write: Write, change: dict[str, object]) -> None:
    write("nets.py", "width = 1")
    keep("nets.py:width")
    path = Path("run/code/manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=r"run/code/manifest.json: can't be used: .*; restore it from a copy"):
        read_copies(Path("run/code"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_manifest_is_refused(write: Write, content: bytes) -> None:
    write("nets.py", "width = 1")
    keep("nets.py:width")
    Path("run/code/manifest.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"run/code/manifest.json: can't be used"):
        read_copies(Path("run/code"))


def test_more_files_than_a_run_keeps(
    write: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dist_train.own_code.copies._MOST_FILES", 3)
    for number in range(9):
        write(f"chained_{number}.py", f"import chained_{number + 1}\n")
    assert len(keep("chained_0.py:x").files) == 3
    assert "more than 3 files are imported by your code" in caplog.text
