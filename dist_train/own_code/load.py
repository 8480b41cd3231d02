"""Import what a reference names, call it, and show its errors as the user's own."""

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from dist_train.errors import (
    ConfigError,
    NonFiniteError,
    OutputError,
    OwnCodeError,
    OwnImportError,
    SaveError,
    UserError,
)
from dist_train.own_code.modules import find_root, is_installed, is_own, list_imports, trace
from dist_train.own_code.reference import FORMS, Parameters, Reference, describe_missing, parse_reference
from dist_train.system.escape import escape
from dist_train.system.stop_signals import StopRequested

_HIDDEN = (Path(__file__).resolve().parent.parent, Path(importlib.__file__).parent)
"""Folders of this program and of importlib, which tracebacks of the user's code do not show."""
_NO_FAILURES = (KeyboardInterrupt, GeneratorExit)
_RELATIVE_HINT = "\nA file belongs to no package; for relative imports write the reference as package.module:Name"
_roots: list[Path] = []
"""Folders of the code that was imported."""


def load(text: str, key: str = "the reference") -> Any:
    """Import what a reference names.

    A file is imported once, by the name under which other modules import it. Its folder comes last in the search for
    modules: a file never replaces an installed module, and is imported by another name if it is called like one.

    Args:
        key: the setting, for messages.

    Raises:
        ConfigError: there is no such file, module or name.
        OwnImportError: the import fails; OwnCodeError where a file system does.
    """
    reference, what = parse_reference(text), f"{key} {escape(text)}"
    if reference is None:
        raise ConfigError(f"{what}: is no reference; write {FORMS}")
    with _kept_directory(what):
        found: Any = _import_file(reference.file, what) if reference.file else _import_module(reference, what)
    for part in reference.name.split("."):
        with shown_as_own(f"{part} in {reference.where}"):  # a module may have `__getattr__`
            missing = not hasattr(found, part)
        if missing:
            raise ConfigError(f"{what}: {describe_missing(reference, part, dir(found))}")
        found = getattr(found, part)
    return found


def call(text: str, key: str, arguments: Mapping[str, Any] | None, given: Mapping[str, Any] | None = None) -> Any:
    """Call the class or function that a reference names with its arguments.

    Args:
        key: the setting, for messages.
        arguments: from the settings, by name; None where the settings can give none.
        given: further arguments from the program; each is left out where there is no such parameter.

    Raises:
        ConfigError: it can't be called, or not with these arguments.
        OwnCodeError: it raises.
    """
    found = load(text, key)
    given = given or {}
    if not callable(found):
        raise ConfigError(f"{key} {text}: is a {type(found).__name__}, and no class or function")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f"{key} {text}: {found.__name__} is abstract; name a class that defines its {lacking}")
    parameters = read_parameters(found)
    if parameters is not None:
        reference = parse_reference(text)
        assert reference is not None  # noqa: S101
        if fault := parameters.find_fault(reference, arguments, set(given), 0):
            raise ConfigError(f"{key}: {fault.text}")
        given = {
            name: value for name, value in given.items() if name in parameters.keywords or parameters.takes_any_name
        }
    with _kept_directory(f"{key} {text}"), shown_as_own(f"{key} {text}"):
        try:
            return found(**given, **(arguments or {}))
        except TypeError as error:
            if not all(is_installed(Path(frame.filename)) for frame in _list_frames(error)):
                raise
            raise ConfigError(f"{key} {text}: does not take these arguments: {error}") from error


def add_line_number(text: str, found: Any) -> str:
    """Return a reference for messages, with the line on which its function begins, if that is known."""
    function = inspect.unwrap(found) if callable(found) else found
    for name in ("forward", "__call__"):
        if not hasattr(function, "__code__"):
            function = getattr(type(found), name, None)
    line = getattr(getattr(function, "__code__", None), "co_firstlineno", None)
    return text if line is None else f"{text} (line {line})"


def takes(function: Any, count: int) -> bool:
    """Whether a function can be called with so many arguments by position; true if it has no signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def check_call(function: Any, what: str, *arguments: str) -> None:
    """Raise ConfigError if a function, or what else can be called, does not take these arguments by position."""
    if takes(function, len(arguments)):
        return
    hint = "; name an object of this class, or a function" if isinstance(function, type) else ""
    raise ConfigError(
        f"{add_line_number(what, function)}: takes {inspect.signature(function)}, and is called with "
        f"({', '.join(arguments)}){hint}"
    )


def read_parameters(function: Any) -> Parameters | None:
    """Return the parameters of a function or class; None if they are not known."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = inspect.Parameter
    positional = [each for each in found if each.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    keywords = [each for each in found if each.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    required = [each.name for each in (*positional, *keywords) if each.default is kinds.empty]
    return Parameters(
        tuple(each.name for each in positional),
        tuple(each.name for each in keywords),
        tuple(dict.fromkeys(required)),
        any(each.kind == kinds.VAR_POSITIONAL for each in found),
        any(each.kind == kinds.VAR_KEYWORD for each in found),
    )


@contextmanager
def _kept_directory(what: str) -> Iterator[None]:
    """Raise ConfigError if a block of the user's code leaves the working directory, to which our paths are relative."""
    before = Path.cwd()
    yield
    try:
        now = os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        now = "one that was removed"
    if now != str(before):
        os.chdir(before)
        raise ConfigError(
            f"{what}: it changes the working directory to {escape(now)}, and the paths of the run are relative to "
            f"{escape(before)}; use absolute paths in your code instead, such as Path(__file__).parent"
        )


@contextmanager
def shown_as_own(what: str) -> Iterator[None]:
    """Raise an exception of the user's code as OwnCodeError, with `what` and the frames of that code only."""
    try:
        yield
    except (OwnCodeError, UserError, OutputError, StopRequested, *_NO_FAILURES):
        raise
    except BaseException as error:
        raise OwnCodeError(f"{what} failed:\n{format_own(error)}") from error


@contextmanager
def _shown_as_import(what: str) -> Iterator[None]:
    """`shown_as_own`, but OwnImportError; a file system that fails may do so once only."""
    try:
        with shown_as_own(what):
            yield
    except OwnCodeError as error:
        if isinstance(error.__cause__, OSError):
            raise
        hint = _RELATIVE_HINT if "attempted relative import" in str(error.__cause__) else ""
        raise OwnImportError(f"{error}{hint}") from error.__cause__


@contextmanager
def own_failures(describe: Callable[[], str]) -> Iterator[None]:
    """Raise an exception that has passed through the user's code as OwnCodeError; leave every other as it is.

    Args:
        describe: says when it was, such as `after 3 steps, on rank 1`.
    """
    try:
        yield
    except (OwnCodeError, UserError, NonFiniteError, OutputError, SaveError, StopRequested, *_NO_FAILURES):
        raise
    except BaseException as error:
        if not any(map(_is_of_user, _list_frames(error))):
            raise
        raise OwnCodeError(f"your code failed {describe()}:\n{format_own(error)}") from error


def format_own(error: BaseException) -> str:
    """Return the traceback of an exception, from the user's first frame on and without frames of this program."""
    frames = _list_frames(error)
    first = next((number for number, frame in enumerate(frames) if _is_of_user(frame)), 0)
    head = ["Traceback (most recent call last):\n", *traceback.format_list(frames[first:])] if frames else []
    return "".join([*head, *traceback.format_exception_only(error)]).rstrip()


def _list_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of an exception that are not of this program."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_hidden(frame.filename)]


def _is_of_user(frame: traceback.FrameSummary) -> bool:
    return is_own(Path(frame.filename), _roots)


def _is_hidden(file: str) -> bool:
    return file.startswith("<frozen") or any(Path(file).is_relative_to(folder) for folder in _HIDDEN)


def _import_file(file: Path, what: str) -> ModuleType:
    _roots.append(find_root(file.parent.resolve()))
    path = Path(os.path.abspath(file))  # noqa: PTH100 - beside a link are other modules than beside its target
    if not path.is_file():
        raise ConfigError(f"{what}: there is no file {escape(file)}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()  # the file may be younger than the last search
    name = _choose_name(path)
    if name in sys.modules:
        return sys.modules[name]
    _check_neighbours(path, what)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _shown_as_import(f"the import of {file}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check_neighbours(path: Path, what: str) -> None:
    """Raise ConfigError if a file imports a module beside it, and would get another of the user's with that name."""
    for top in {name.partition(".")[0] for name in list_imports(path.read_bytes(), "")}:
        beside, found = path.parent / f"{top}.py", next(trace(top), None)
        if not beside.is_file() or found is None or found.file is None or is_installed(found.file):
            continue
        if not beside.samefile(found.file):
            raise ConfigError(
                f"{what}: {escape(path)} imports {top}, which is {escape(beside)} for it and {escape(found.file)} for "
                "other code of this run. Give one of them another name"
            )


def _choose_name(path: Path) -> str:
    """Return the name by which other modules import a file; one of its own where that is the name of another."""
    found = None if "." in path.stem else next(trace(path.stem), None)
    if found is not None and found.file is not None and found.file.resolve() == path.resolve():
        return path.stem
    stem = re.sub(r"\W", "_", path.stem)
    return f"dist_train_own_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}_{stem}"


def _import_module(reference: Reference, what: str) -> ModuleType:
    name = str(reference.module)
    _roots.extend(find_root(each.root.resolve()) for each in trace(name, [Path.cwd()]) if each.root)
    working_directory = str(Path.cwd())
    if working_directory not in sys.path:
        sys.path.append(working_directory)
    try:
        with _shown_as_import(f"the import of {name}"):
            return importlib.import_module(name)
    except OwnCodeError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{name}.".startswith(f"{missing.name}."):
            raise ConfigError(f"{what}: there is no module {name}; is it installed, or in PYTHONPATH?") from error
        raise
