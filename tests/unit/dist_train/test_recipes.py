"""Names of recipes, and files of the same names."""

import re
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from dist_train.recipes import copy_settings, describe_recipes, find_config, list_recipes
from dist_train.settings.loader import load_config
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recipes_are_those_of_the_repository() -> None:
    folders = (ROOT / "configs", ROOT / "configs" / "lessons")
    assert list(list_recipes().values()) == [path for each in folders for path in sorted(each.glob("*.yaml"))]
    heads = dict(describe_recipes())
    assert list(heads) == list(list_recipes())
    assert all(head and not head.startswith("#") for head in heads.values())


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_loaded_by_its_name_from_any_folder(name: str) -> None:
    assert load_config(name) == load_config(list_recipes()[name])


def test_a_file_of_the_same_name_wins_only_as_a_path(folder: Path) -> None:
    recipe = list_recipes()["digits"]
    for written in ("digits", "digits.yaml"):
        (folder / written).write_text(recipe.read_text())
    assert find_config("digits") == recipe
    for path in ("./digits", "digits.yaml", str(folder / "digits"), folder / "digits"):
        assert find_config(path) == Path(path)


@pytest.mark.parametrize(
    ("name", "files", "advice"),
    [
        ("digit", (), "Did you mean digits?"),
        ("Digits", (), "Did you mean digits?"),
        ("nothing", (), "is not a recipe; there are cifar10_resnet18, "),
        ("mine", ("mine",), "mine: is not a recipe; for the file that is here write ./mine"),
        ("mine", ("mine.yaml",), "mine: is not a recipe; for the file that is here write mine.yaml"),
        ("mine", ("mine/config.yaml",), "mine: is not a recipe; for the file that is here write mine/config.yaml"),
        ("mine", ("mine.yml",), "write mine.yml"),
        ("", (), "is not a recipe"),
        ("a\nb", (), r"a\nb: is not a recipe"),
        ("a\0b", (), "is not a recipe"),
    ],
)
def test_a_name_that_is_none_is_refused_with_what_was_meant(
    folder: Path, name: str, files: tuple[str, ...], advice: str
) -> None:
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("data: {name: digits}\n")
    with pytest.raises(ConfigError, match=re.escape(advice)):
        load_config(name)


class TestCopy:
    def test_references_lead_where_they_did_also_in_a_copy_of_a_copy(self, folder: Path) -> None:
        (folder / "own").mkdir()
        (folder / "own" / "nets.py").write_text("class Net:\n    pass\n")
        original = folder / "own" / "mine.yaml"
        original.write_text('data: {name: digits}\nmodel: {name: "nets.py:Net"}\n')
        for target in (folder / "a" / "mine.yaml", folder / "b" / "mine.yaml"):
            target.parent.mkdir()
            copy_settings(find_config("own/mine.yaml") if target.parent.name == "a" else folder / "a/mine.yaml", target)
            assert load_config(target) == load_config(original)
            assert target.read_bytes() == original.read_bytes()

    def test_settings_without_references_have_nothing_beside_them(self, folder: Path) -> None:
        copy_settings(find_config("digits"), folder / "digits.yaml")
        assert [path.name for path in folder.iterdir()] == ["digits.yaml"]
