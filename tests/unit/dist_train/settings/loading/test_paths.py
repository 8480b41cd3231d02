"""Paths among the settings: homes and variables are expanded, and what is no path is refused by name."""

import os
from pathlib import Path
from typing import get_args

import pytest

from dist_train.settings.loader import load_config, load_run_config, to_yaml
from dist_train.settings.loading.paths import PATHS
from dist_train.settings.schema import Config
from dist_train.settings.schema.section import FileName, section_classes
from tests.unit.dist_train.settings.conftest import LEAST, Load, complaint

TABLE = "data: {name: table}\nmodel: {name: mlp}\ntask: regression\n"


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("$SCRATCH/x", "/scratch/x"),
        ("${SCRATCH}/x", "/scratch/x"),
        ("a/$SCRATCH", "a//scratch"),
        ("$TWO/y", "/scratch/1/y"),
        ("~/x", str(Path.home() / "x")),
        ("$TILDE/x", str(Path.home() / "x")),
        ("a b", "a b"),
        ("w\udce9t", "w\udce9t"),
        ("c:/x", "c:/x"),
    ],
)
def test_a_path_is_expanded(load: Load, key: str, written: str, expected: str) -> None:
    config = load(
        TABLE if key == "data.file" else LEAST, f"{key}={written}", SCRATCH="/scratch", TWO="/scratch/1", TILDE="~"
    )
    section, _, name = key.partition(".")
    assert getattr(getattr(config, section), name) == expected


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("$SCRATCH/x", "the variable SCRATCH is not set"),
        ("$EMPTY/x", "the variable EMPTY is not set"),
        ("${NO NAME}/x", "its $ is not followed by the name of a variable"),
        ("a$", "its $ is not followed by the name of a variable"),
        ("$(pwd)/x", "its $ is not followed by the name of a variable"),
        ("~nobody-is-called-so/x", "the home directory at its start is unknown"),
        *(
            (f"{scheme}://bucket/x", "not an address")
            for scheme in ("s3", "gs", "hdfs", "https", "file", "abfs", "s3a")
        ),
    ],
)
def test_what_is_no_path_is_refused_by_name(load: Load, key: str, written: str, message: str) -> None:
    text = complaint(load, TABLE if key == "data.file" else LEAST, f"{key}={written}", EMPTY="")
    assert text.startswith(f"command line: {key}=")
    assert message in text


def test_each_setting_that_is_a_file_name_is_expanded() -> None:
    found = [
        f"{section}.{name}"
        for section, info in Config.model_fields.items()
        for kind in section_classes(info.annotation)
        for name, field in kind.model_fields.items()
        if any(each in field.metadata for each in get_args(FileName)[1:2]) or FileName in get_args(field.annotation)
    ]
    assert set(found) == set(PATHS)


def test_the_settings_of_a_run_are_not_expanded_again(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(LEAST + "run: {dir: $SCRATCH/x}\n")
    assert load_run_config(path, environ={}).run.dir == "$SCRATCH/x"
    assert load_run_config(path, ["run.dir=$A/x"], {"A": "/a"}).run.dir == "/a/x"


def test_a_name_that_is_not_utf_8_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    name = os.fsdecode(b"w\xe9t")
    path.write_text(LEAST)
    config = load_config(path, [f"data.root={name}"], {})
    path.write_text(to_yaml(config))
    assert load_config(path, environ={}) == config
