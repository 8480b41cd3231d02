"""Files that are not YAML of the accepted kind, or cannot be read."""

import os
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config
from tests.unit.dist_train.settings.conftest import LEAST, Load, complaint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.yaml: is empty"),
        (b"# a comment\n", "a.yaml: is empty"),
        (b"---\n", "a.yaml: is empty"),
        (b"null\n", "a.yaml: is empty"),
        (b"\x7fELF\x02\x01\x00\x00", "a.yaml:1: is not text: it contains the control character 0x7f"),
        (b"a: \x00\n", "a.yaml:1: is not text: it contains the control character 0x00"),
        (b"a: \xff\n", "a.yaml: is not text in UTF-8"),
        ("a: 1".encode("utf-16"), "a.yaml: is not text in UTF-8"),
        (b"a: 1\nb: \x1b[0m\n", "a.yaml:2: is not text: it contains the control character 0x1b"),
        (b"#" * 10**7, "a.yaml: is larger than 100 kB, too large for a settings file"),
        (b"\xff" * 10**7, "a.yaml: is larger than 100 kB"),
        (b"a: [" + b"1, " * 30_000 + b"1]", "a.yaml:1: more than 2,000 values"),
        (b"a: [" + b"[], " * 20_000 + b"1]", "a.yaml:1: more than 2,000 values"),
        (b"a: {b: 1}\n" * 5000, "a.yaml:500: more than 2,000 values"),
        (b"- a\n- b\n", "a.yaml: the top level must be a mapping of sections"),
        (b"hello\n", "a.yaml: the top level must be a mapping of sections"),
        (b"a: 1\nb: c: d\n", "a.yaml:2: is not YAML, in column 5: mapping values are not allowed here"),
        (b"a:\n\t- b\n", "a.yaml:2: is not YAML, in column 1: found character"),
        (b"a: [1,\n", "a.yaml:2: is not YAML, in column 1: "),
        (b'a: "\\UFFFFFFFF"\n', "a.yaml: is not YAML: "),
        (b"a: 1\n---\nb: 2\n", "a.yaml:2: several documents in one file; only one is allowed"),
        (b"a: !!python/object/apply:os.system [x]\n", "a.yaml:1: tags (!) are not allowed"),
        (b"a: 1\nb: &x {c: 1}\nd: *x\n", "a.yaml:2: anchors and aliases (&, *) are not allowed"),
        (b"a: 1\nb: *x\n", "a.yaml:2: anchors and aliases"),
        (b"a: &x 1\nb:\n  <<: *x\n", "a.yaml:1: anchors and aliases"),
        (b"a: " + b"[" * 90_000, "a.yaml:1: nested deeper than 20 levels"),
        (b"a: " + b"{x: " * 20_000, "a.yaml:1: nested deeper than 20 levels"),
    ],
)
def test_no_file_of_settings(load: Load, content: bytes, message: str) -> None:
    text = complaint(load, content, "optim.lr=1")
    assert text.startswith(message)
    assert "\n" not in text
    assert len(text) < 120


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file or directory$"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"Is a directory \(did you mean \S+/config\.yaml\?\)$"):
        load_config(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(LEAST)
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_config(path)
