"""Grids: which settings vary, their combinations, and the names of trial directories."""

import pytest

from dist_train.errors import ConfigError
from launch.sweeps.grid import MAX_NAME_BYTES, Grid, build_directory_name, split_values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.05, 0.1", ["0.05", "0.1"]),
        ("[1,28,28],[3,32,32]", ["[1,28,28]", "[3,32,32]"]),
        ("[1,28,28]", ["[1,28,28]"]),
        ("{mean: [0.1,0.2], std: [1,1]},auto", ["{mean: [0.1,0.2], std: [1,1]}", "auto"]),
        ("'a,b',\"c,d\"", ["'a,b'", '"c,d"']),
        ("['a]',b],c", ["['a]',b]", "c"]),
        ("it's,that", ["it's", "that"]),
        ("", [""]),
    ],
)
def test_commas_outside_of_brackets_and_quotes_separate(text: str, expected: list[str]) -> None:
    assert list(split_values(text)) == expected


def test_the_last_setting_varies_fastest() -> None:
    grid = Grid.parse(["optim.lr=0.1,0.2", "train.epochs=5", "data.global_batch=8,16"])
    assert grid.common == ("train.epochs=5",)
    assert grid.combine() == [
        ("optim.lr=0.1", "data.global_batch=8"),
        ("optim.lr=0.1", "data.global_batch=16"),
        ("optim.lr=0.2", "data.global_batch=8"),
        ("optim.lr=0.2", "data.global_batch=16"),
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "needs a setting with several values"),
        (["optim.lr=0.1", "data.shape=[1,28,28]"], "separated by commas: optim.lr=0.05,0.1,0.2"),
        (["run.name=a,b"], "run.name=a,b: run.name can't vary in a sweep: each trial has its own directory"),
        (["run.dir=a,b"], "run.dir can't vary"),
        (["run.resume=auto,never"], "run.resume can't vary"),
        (["optim.lr=0.1,,0.2"], "one of its values is empty; write optim.lr=0.1,0.2"),
        (["optim.lr=0.1,0.2", "optim.lr=0.3"], "optim.lr is set twice"),
        (["optim.lr=0.1,0.2", "run.name=a\nb"], "contains a line break"),
    ],
)
def test_what_is_no_grid_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Grid.parse(overrides)
    assert message in str(refused.value)


def test_names_of_directories() -> None:
    assert build_directory_name(0, ["optim.lr=0.05", "data.global_batch=256"]) == "0-lr=0.05-global_batch=256"
    assert build_directory_name(1, ["data.shape=[1, 28]", "data.root=/a b/ü"]) == "1-shape=_1_28_-root=_a_b_"
    assert build_directory_name(2, ["optim.name=adam", "model.name=x"]) == "2-optim.name=adam-model.name=x"
    assert len(build_directory_name(3, [f"data.root={'a' * 300}"])) == MAX_NAME_BYTES
