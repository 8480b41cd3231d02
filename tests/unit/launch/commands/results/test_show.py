"""`dist-train show` draws settings or a run, and refuses what contradicts itself."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from launch.cli import main
from launch.commands.results import show


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["digits", "--wrong"], "--wrong: mistakes are those of a run, and digits is none; e.g. runs/digits"),
        (["digits", "--wrong", "--augmented"], "--wrong: a run is judged on samples without random changes"),
        (["digits", "--augmented", "--split", "test"], "only training samples are changed at random, not --split test"),
        (["digits", "-o", "a.jpg"], "-o a.jpg: the name must end in .png, .svg or .pdf"),
        (["digits", "--limit", "0"], "argument --limit: is '0'; it must be a number from 1 to 1000"),
        (["digits", "--checkpoint", "best"], "--checkpoint best: no network is used; leave it out, or name a run"),
        (["folder"], "folder: is not a run: it has no config.yaml"),
        (["nothing"], "nothing: is not a recipe"),
    ],
)
def test_what_can_not_be_drawn_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert main(["show", *arguments]) == 2
    assert problem in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_with_the_name_of_a_recipe_is_meant_if_it_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert not show._names_run("digits")
    assert show._names_run("./digits")
    Path("digits/config.yaml").touch()
    assert show._names_run("digits")


@pytest.mark.parametrize(
    ("arguments", "split", "augmented"),
    [([], "train", False), (["--split", "test"], "test", False), (["--augmented"], "train", True)],
)
def test_settings_are_drawn_from_the_split_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], split: str, augmented: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = Mock(return_value="3 of 9")
    monkeypatch.setattr("dist_train.results.show.show_data", draw)
    assert main(["show", "digits", "data.limit_train=96", *arguments, "--limit", "3"]) == 0
    config, *others = draw.call_args.args
    assert config.data.limit_train == 96
    assert others == [split, augmented, 3, Path("grid.png")]
