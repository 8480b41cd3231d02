"""Import what a reference names, call it, and show its errors as the user's own."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from dist_train.errors import ConfigError, OwnCodeError
from dist_train.own_code.reference import FORMS, Parameters, Reference, parse_reference

_OURS = Path(__file__).resolve().parent.parent


def load(text: str) -> Any:
    """Import what a reference names.

    A file is imported once, under a name that depends on its path only, so that what it defines can be pickled. Its
    folder comes last in the search for modules: a file beside it never replaces an installed module.

    Raises:
        ConfigError: there is no such file, module or name.
        OwnCodeError: the import fails.
    """
    reference = parse_reference(text)
    if reference is None:
        raise ConfigError(f"{text!r} is no reference; write {FORMS}")
    module = _import_file(reference.file) if reference.file else _import_module(reference)
    found: Any = module
    for part in reference.name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{reference.where} has no {reference.name}")
        found = getattr(found, part)
    return found


def call(text: str, key: str, arguments: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Any:
    """Call the class or function that a reference names with its arguments.

    Args:
        key: the setting, for messages.
        given: more arguments, of the program; each is left out where there is no such parameter.

    Raises:
        ConfigError: it can't be called, or not with these arguments.
        OwnCodeError: it raises.
    """
    found = load(text)
    given = given or {}
    if not callable(found):
        raise ConfigError(f"{key} {text}: is a {type(found).__name__}, and no class or function")
    parameters = read_parameters(found)
    if parameters is not None:
        reference = parse_reference(text)
        assert reference is not None  # noqa: S101
        if fault := parameters.find_fault(reference, arguments, set(given), 0):
            raise ConfigError(f"{key}: {fault}")
        given = {
            name: value for name, value in given.items() if name in parameters.keywords or parameters.takes_any_name
        }
    with shown_as_own(f"{key} {text}"):
        return found(**given, **arguments)


def read_parameters(function: Any) -> Parameters | None:
    """Return the parameters of a function or class; None if it does not tell."""
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
def shown_as_own(what: str) -> Iterator[None]:
    """Raise an exception of the user's code as OwnCodeError, with `what` was done and the frames of that code only."""
    try:
        yield
    except (OwnCodeError, ConfigError):
        raise
    except Exception as error:
        raise OwnCodeError(f"{what} failed:\n{format_own(error)}") from error


def format_own(error: BaseException) -> str:
    """Return the traceback of an exception without the frames of this program."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    head = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
    return "".join([*head, *traceback.format_exception_only(error)]).rstrip()


def _is_ours(file: str) -> bool:
    return file.startswith("<frozen") or Path(file).is_relative_to(_OURS)


def _import_file(file: Path) -> ModuleType:
    path = file.resolve()
    name = f"dist_train_own_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ConfigError(f"{file}: there is no such file")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with shown_as_own(f"the import of {file}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(reference: Reference) -> ModuleType:
    name = str(reference.module)
    working_directory = str(Path.cwd())
    if working_directory not in sys.path:
        sys.path.append(working_directory)
    try:
        with shown_as_own(f"the import of {name}"):
            return importlib.import_module(name)
    except OwnCodeError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{name}.".startswith(f"{missing.name}."):
            raise ConfigError(f"{name}: there is no such module; is it installed, or in PYTHONPATH?") from error
        raise
