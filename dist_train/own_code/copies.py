"""The copies of the user's code that a run keeps: written when it starts, used by evaluations and other commands.

code/manifest.json       the file of each reference, the SHA-256 of each file, and the commits
code/nets.py ...         the files that references name, and the modules of the user's that they import
code/working_tree.diff   how the tracked files of git differed from the commit
"""

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from dist_train.errors import ConfigError
from dist_train.own_code.modules import find_root, is_own, list_imports, trace
from dist_train.own_code.reference import parse_reference
from dist_train.own_code.working_tree import WorkingTree, describe_working_tree
from dist_train.system.escape import escape
from dist_train.system.read_file import check_types, explain, read_bytes, read_object

_log = logging.getLogger(__name__)
_MOST_FILES = 1000
_MANIFEST = "manifest.json"


@dataclass
class Code:
    """The user's code that a run uses."""

    references: dict[str, Path] = field(default_factory=dict)
    """The file of each reference to a file."""
    files: dict[Path, bytes] = field(default_factory=dict)
    folders: dict[str, set[Path]] = field(default_factory=dict)
    """The folders of each top-level name that is imported."""
    trees: list[WorkingTree] = field(default_factory=list)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file, by its name in the copies."""
        return {self._name(path): hashlib.sha256(content).hexdigest() for path, content in self.files.items()}

    def _name(self, path: Path) -> str:
        """The name of a file in the copies: its path from the folder that all of them have in common."""
        folders = {*(each.parent for each in self.files), *(each for found in self.folders.values() for each in found)}
        return Path(os.path.relpath(path, os.path.commonpath(folders))).as_posix()

    def write(self, folder: Path) -> None:
        """Replace the copies in a run's directory; copies of other files stay, as `code.old-<n>`.

        Raises:
            OSError: they can't be written.
        """
        if not self.files:
            return
        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        digests = self.digests()
        contents = {self._name(path): content for path, content in self.files.items()}
        diffs = {f"working_tree{f'_{number}' if number else ''}.diff": tree for number, tree in enumerate(self.trees)}
        manifest = {
            "references": {text: self._name(path) for text, path in self.references.items()},
            "modules": {name: sorted(map(self._name, found)) for name, found in self.folders.items()},
            "files": {self._name(path): str(path) for path in self.files},
            "sha256": digests,
            "commits": {
                name: {"commit": tree.commit, "sha256": hashlib.sha256(tree.diff).hexdigest()}
                for name, tree in diffs.items()
            },
        }
        contents |= {name: tree.diff for name, tree in diffs.items() if tree.diff}
        contents[_MANIFEST] = json.dumps(manifest, indent=1).encode() + b"\n"
        if _read(folder / _MANIFEST) == contents[_MANIFEST]:
            return
        for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a start that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        for name, content in contents.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(content)
        _move_aside(folder, digests)
        aside.rename(folder)


def _move_aside(folder: Path, digests: Mapping[str, str]) -> None:
    """Remove the earlier copies if they are of the same files, else rename them."""
    if not os.path.lexists(folder):
        return
    try:
        is_same = read_object(folder / _MANIFEST).get("sha256") == digests
    except (OSError, ValueError):
        is_same = False
    if is_same:
        shutil.rmtree(folder)
        return
    number = 1
    while os.path.lexists(older := folder.with_name(f"{folder.name}.old-{number}")):
        number += 1
    folder.rename(older)


def collect_code(references: Iterable[str]) -> Code:
    """Read the files that references name, and the user's own modules that they import; nothing is run.

    Raises:
        ConfigError: a file can't be read.
    """
    code = Code()
    parsed = [(text, found) for text in references if (found := parse_reference(text))]
    # A link keeps its name, by which its folder and the modules beside it are found.
    given = {text: Path(os.path.abspath(found.file)) for text, found in parsed if found.file}  # noqa: PTH100
    folders = list(dict.fromkeys(path.parent for path in given.values()))
    modules = [found.module for _, found in parsed if found.module]
    places = [place.root for name in modules for place in trace(name, [Path.cwd()]) if place.root]
    roots = [find_root(folder.resolve()) for folder in (*folders, *places)]
    for text, path in given.items():
        code.references[text] = path
        _add_file(code, path, "", folders, roots)
    for name in modules:
        _add_module(code, name, [*folders, Path.cwd()], roots)
    for root in dict.fromkeys(find_root(path.parent) for path in code.files):
        tree = describe_working_tree(root)
        if tree is not None:
            code.trees.append(tree)
    return code


def _add_file(code: Code, path: Path, package: str, folders: list[Path], roots: list[Path]) -> None:
    if path in code.files:
        return
    if len(code.files) == _MOST_FILES:
        _log.warning("more than %d files are imported by your code; the run keeps the first ones", _MOST_FILES)
    if len(code.files) >= _MOST_FILES:
        return
    try:
        code.files[path] = content = read_bytes(path)
    except OSError as error:
        raise ConfigError(f"{escape(path)}: can't be read: {explain(error)}") from error
    for name in list_imports(content, package):
        _add_module(code, name, folders, roots)


def _add_module(code: Code, name: str, folders: list[Path], roots: list[Path]) -> None:
    """Add the files that an import of `name` runs."""
    for found in trace(name, folders):
        if found.file is None or found.root is None or not is_own(found.file, roots):
            continue
        file = Path(os.path.abspath(found.file))  # noqa: PTH100
        code.folders.setdefault(name.partition(".")[0], set()).add(Path(os.path.abspath(found.root)))  # noqa: PTH100
        _add_file(code, file, found.name if found.folders else found.name.rpartition(".")[0], folders, roots)


@dataclass(frozen=True)
class Copies:
    """The copies that a run has kept."""

    folder: Path
    references: dict[str, str]
    modules: dict[str, list[str]]
    files: dict[str, str]
    """Name of each copy, with the path of the original."""
    sha256: dict[str, str]

    def list_files(self) -> list[Path]:
        """Return the paths of the copies."""
        return [self.folder / name for name in self.files]

    def find_changes(self) -> list[str]:
        """Return the paths of originals that are there and differ from their copy."""
        return [path for name, path in self.files.items() if _hash(Path(path)) not in (None, self.sha256[name])]

    def check(self) -> None:
        """Check that the copies are what the run has written; raises ConfigError."""
        for name in self.files:
            if _hash(self.folder / name) != self.sha256[name]:
                raise ConfigError(
                    f"{escape(self.folder / name)}: is missing or not what the run has written "
                    f"({_MANIFEST} has another SHA-256); restore it from a copy of the run"
                )

    def translate(self, text: str) -> str:
        """Return a reference to the copy of what a reference names; unchanged if there is no copy."""
        found = parse_reference(text)
        return f"{self.folder / self.references[text]}:{found.name}" if found and text in self.references else text

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A block in which imports of the copied modules find the copies."""
        modules, path = self._take_modules(), list(sys.path)
        finder = _Finder({name: [str(self.folder / each) for each in found] for name, found in self.modules.items()})
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            self._take_modules()
            sys.modules.update(modules)
            sys.path[:] = path

    def _take_modules(self) -> dict[str, ModuleType]:
        """Forget the imported modules of these names, so that the next import searches; return them."""
        names = [name for name in sys.modules if name.partition(".")[0] in self.modules]
        return {name: sys.modules.pop(name) for name in names}


@dataclass(frozen=True)
class _Finder:
    """Finds modules by their top-level name in given folders; part of `sys.meta_path`."""

    folders: dict[str, list[str]]

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        return PathFinder.find_spec(name, self.folders[name]) if path is None and name in self.folders else None


def read_copies(folder: Path) -> Copies | None:
    """Return the copies that a run has kept; None if it has none.

    Raises:
        ConfigError: their manifest can't be read, or was not written by this program.
    """
    path = folder / _MANIFEST
    try:
        found = read_object(path)
        texts = {key: found.get(key) for key in ("references", "modules", "files", "sha256")}
        check_types(texts, Copies)
        copies = Copies(folder, **texts)  # type: ignore[arg-type]
        _check_names(copies)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{escape(path)}: can't be used: {explain(error)}; restore it from a copy of the run"
        ) from error
    return copies


def _check_names(copies: Copies) -> None:
    """Check that the manifest names nothing outside of its folder; raises ValueError."""
    folders: list[Any] = [
        name for found in copies.modules.values() for name in (found if type(found) is list else [None])
    ]
    texts = [*copies.files, *copies.files.values(), *copies.sha256.values(), *copies.references.values(), *folders]
    if not all(isinstance(each, str) and "\0" not in each for each in texts):
        raise ValueError("it was not written by this program")
    names = [*copies.files, *copies.references.values(), *folders]
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names):
        raise ValueError("it names a file that is not below its folder")
    if set(copies.files) != set(copies.sha256) or not set(copies.references.values()) <= set(copies.files):
        raise ValueError("it does not name the same files everywhere")


def _hash(path: Path) -> str | None:
    content = _read(path)
    return None if content is None else hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes | None:
    """Return the content of a file, None if it can't be read."""
    try:
        return read_bytes(path)
    except (OSError, ValueError):
        return None
