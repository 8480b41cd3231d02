"""The recipes that come with this program, how a user names a settings file, and copies of one."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.installation import find_own
from dist_train.system.escape import escape
from dist_train.system.read_file import is_file, read_bytes

SUFFIXES = (".yaml", ".yml")
_NOTE = ".folder"
"""Ending of the file beside a copied settings file; it holds the folder to which its references are relative."""


def list_recipes() -> dict[str, Path]:
    """Return the path of each recipe by its name; those of the lessons come after the others."""
    folder = find_own("configs")
    return {path.stem: path for each in (folder, folder / "lessons") for path in sorted(each.glob("*.yaml"))}


def find_config(name: str | Path) -> Path:
    """Return the path of a settings file: `digits` is the recipe; `./digits` and `digits.yaml` are files.

    Raises:
        ConfigError: there is no recipe of this name.
    """
    path = Path(name)
    return path if "/" in str(name) or path.suffix in SUFFIXES else find_recipe(str(name))


def find_recipe(name: str) -> Path:
    """Return the path of a recipe; raises ConfigError if there is none of this name."""
    recipes = list_recipes()
    if name not in recipes:
        raise ConfigError(f"{escape(name)}: is not a recipe{_advise(name, list(recipes))}")
    return recipes[name]


def _advise(name: str, recipes: list[str]) -> str:
    """Return the end of the message about an unknown name: which name may be meant."""
    of_run = Path(name, "config.yaml")
    for path in (Path("./", name), *(Path(f"{name}{suffix}") for suffix in SUFFIXES), of_run):
        if is_file(path):
            written = path if path.suffix in SUFFIXES else f"./{path}"
            return f"; for the file that is here write {escape(written)}"
    guess = "".join(f". Did you mean {close}?" for close in get_close_matches(name.lower(), recipes, 1))
    own = "A settings file of your own ends in .yaml, or is given with its folder"
    return f"; there are {', '.join(recipes)}. {own}{guess}"


def describe_recipes() -> Iterator[tuple[str, str]]:
    """Yield the name of each recipe and the first line of its head."""
    for name, path in list_recipes().items():
        yield name, path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def copy_settings(source: Path, target: Path) -> None:
    """Copy a settings file to another folder, where its references to files stay what they are; raises OSError."""
    text = source.read_bytes()
    if b".py:" in text:
        target.with_name(target.name + _NOTE).write_bytes(os.fsencode(find_folder(source).absolute()))
    target.write_bytes(text)


def find_folder(path: Path) -> Path:
    """Return the folder to which references in a settings file are relative: its own, or that of the file it copies."""
    note = path.with_name(path.name + _NOTE)
    return Path(os.fsdecode(read_bytes(note))) if path.name and is_file(note) else path.parent
