"""Find the files of modules as an import would, without running any of them."""

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

_OURS = Path(__file__).resolve().parents[2]
_LIBRARIES = {Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}


class Module(NamedTuple):
    """A module or package that was found."""

    name: str
    """Dotted."""
    file: Path | None
    """None for a package without `__init__.py`, and for a module that is no Python file."""
    folders: list[Path]
    """Folders with the modules of a package; [] for a module."""

    @property
    def root(self) -> Path | None:
        """The folder in which the search for the top-level name ends."""
        depth = self.name.count(".") + (self.file is not None and self.file.name == "__init__.py")
        return self.file.parents[depth] if self.file else None


def trace(name: str, folders: Iterable[Path] = ()) -> Iterator[Module]:
    """Yield the packages and the module that an import of a dotted name runs, up to the first that is missing.

    Args:
        folders: searched for the top-level name after all others.
    """
    top, *rest = name.split(".")
    found = _find_top(top) or _find_in(folders, top, top)
    while found:
        yield found
        part = rest.pop(0) if rest else None
        found = _find_in(found.folders, part, f"{found.name}.{part}") if part else None


def _find_top(name: str) -> Module | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # such as `__main__`
        return None
    if spec is None:
        return None
    file = Path(spec.origin) if spec.has_location and spec.origin and spec.origin.endswith(".py") else None
    return Module(name, file, [Path(folder) for folder in spec.submodule_search_locations or ()])


def _find_in(folders: Iterable[Path], part: str, name: str) -> Module | None:
    places = [folder / part for folder in folders]
    for place in places:
        if (place / "__init__.py").is_file():
            return Module(name, place / "__init__.py", [place])
        if (file := place.with_name(f"{part}.py")).is_file():
            return Module(name, file, [])
    packages = [place for place in places if place.is_dir()]
    return Module(name, None, packages) if packages else None


def list_imports(source: bytes, package: str) -> Iterator[str]:
    """Yield the dotted names that a module imports anywhere; none if the source can't be parsed.

    Args:
        package: of the module, to which its relative imports refer; "" if it has none.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            parent = ".".join([*filter(None, above), *([node.module] if node.module else [])])
            if parent or node.level == 0:
                yield from (f"{parent}.{alias.name}" for alias in node.names)


def find_root(folder: Path) -> Path:
    """Return the working tree of git that a folder is in, else the folder: what is below it is the user's own."""
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), folder)


def is_own(file: Path, roots: Sequence[Path]) -> bool:
    """Whether a file is below one of the roots and the user's own."""
    return any(file.resolve().is_relative_to(root) for root in roots) and not is_installed(file)


def is_installed(file: Path) -> bool:
    """Whether a file is of Python, of an installed package, or of this program."""
    path = file.resolve()
    targets = (Path(folder).resolve() for folder in sys.path if _holds_packages(folder))
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(
        path.is_relative_to(folder) for folder in (*_LIBRARIES, _OURS / "dist_train", _OURS / "launch", *targets)
    )


@cache
def _holds_packages(folder: str) -> bool:
    """Whether packages were installed into a folder, as `pip install --target` does."""
    return any(Path(folder).glob("*.dist-info"))
