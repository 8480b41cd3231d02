"""Find what a reference names in the source, and check it without running any of it, and without torch."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from dist_train.errors import ConfigError
from dist_train.own_code.modules import trace
from dist_train.system.escape import escape
from dist_train.system.read_file import explain, read_bytes

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_REFERENCE = re.compile(rf"(?:(?P<file>.*\.py)|(?P<module>{_NAME})):(?P<name>{_NAME})", re.DOTALL)
FORMS = "path/to/file.py:Name or package.module:Name"


@dataclass(frozen=True)
class Reference:
    """A place of code: a file, or a module that Python can import, and a name in it."""

    file: Path | None
    module: str | None
    name: str
    """The name, with dots for one within a class."""

    @property
    def where(self) -> str:
        """The file or module, for messages."""
        return escape(self.file or self.module or "")


class CodeFault(NamedTuple):
    """What is wrong with a reference, or with the arguments for what it names."""

    text: str
    argument: str | None = None
    """The argument in the settings that is wrong, if there is one."""


def parse_reference(text: str) -> Reference | None:
    """Return the place that a reference names, None if the text is none."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return None
    return Reference(Path(found["file"]) if found["file"] else None, found["module"], found["name"])


def is_same_code(one: str, other: str) -> bool:
    """Whether two references have the same file name, or module, and the same name: folders may have moved."""
    first, second = parse_reference(one), parse_reference(other)
    if first is None or second is None or first.file is None or second.file is None:
        return one == other
    return (first.file.name, first.name) == (second.file.name, second.name)


def find_fault(
    text: str,
    arguments: Mapping[str, Any] | None,
    given: Iterable[str] = (),
    positional: tuple[int | None, int | None] = (0, 0),
) -> CodeFault | None:
    """Describe what is wrong with a reference or with the arguments for it; None if the source shows no fault.

    Args:
        arguments: from the settings, by name; None where the settings can give none.
        given: names of arguments that the program adds where there is such a parameter.
        positional: how many arguments the program gives by position to a function, and to a class; None: the arguments
            of one are not checked.
    """
    reference = parse_reference(text)
    if reference is None:
        return CodeFault(f"it is no reference; write {FORMS}")
    try:
        file = reference.file or _find_file(str(reference.module))
        tree = ast.parse(read_bytes(file)) if file else None
    except OSError as error:
        return CodeFault(f"{reference.where} can't be read: {explain(error)}")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # the import shows it with its line
    except ConfigError as error:
        return CodeFault(str(error))
    if tree is None:
        return None
    first, *rest = reference.name.split(".")
    names = dict(_find_names(tree.body))
    if first not in names:
        is_package = file is not None and file.name == "__init__.py"  # its modules are names in it too
        is_known = not is_package and not _may_have_more(tree, names)
        return CodeFault(describe_missing(reference, first, names)) if is_known else None
    definition = names[first]
    parameters = None if rest or definition is None else _find_parameters(definition, names)
    count = positional[isinstance(definition, ast.ClassDef)]
    if parameters is None or count is None:
        return None
    return parameters.find_fault(reference, arguments, set(given), count)


def describe_missing(reference: Reference, name: str, known: Iterable[str]) -> str:
    """Describe that a file, module or class has no such name, and which name may be meant."""
    close = get_close_matches(name, known := list(known), 1)
    public = sorted(each for each in known if not each.startswith("_"))
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(public[:10]) or 'no names'}"
    return f"{reference.where} has no {escape(name, 80)}; {hint}"


def _find_file(module: str) -> Path | None:
    """Find the source of a module without importing its packages; None for one that has none.

    Raises:
        ConfigError: there is no such module.
    """
    found = list(trace(module, [Path.cwd()]))
    if not found:
        raise ConfigError(f"there is no module {module.partition('.')[0]}; is it installed, or in PYTHONPATH?")
    missing = module.removeprefix(found[-1].name)
    if missing and not found[-1].folders:
        raise ConfigError(f"there is no module {found[-1].name}{missing}: {found[-1].name} is no package")
    # A package may make its modules when it is imported.
    return None if missing else found[-1].file


def _find_names(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.AST | None]]:
    """Yield each name that a module defines, with its class or function if that is what it is."""
    waiting: list[ast.AST] = [*body]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
            continue  # names inside are not names of the module
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], None) for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, None
        waiting.extend(ast.iter_child_nodes(node))


def _may_have_more(tree: ast.Module, names: Iterable[str]) -> bool:
    """Whether a module may have names that its source does not show."""
    return "__getattr__" in names or any(
        (isinstance(node, ast.ImportFrom) and node.names[0].name == "*")
        or (isinstance(node, ast.Name) and node.id in ("globals", "exec"))
        or (isinstance(node, ast.Attribute) and node.attr == "modules")  # `sys.modules[__name__] = another`
        or isinstance(node, ast.Global)
        for node in ast.walk(tree)
    )


@dataclass(frozen=True)
class Parameters:
    """Parameters of a function or of a class's constructor."""

    positional: tuple[str, ...]
    """Those that may be given by position, in order, `self` left out."""
    keywords: tuple[str, ...]
    """Those that may be given by name."""
    required: tuple[str, ...]
    takes_any_position: bool
    takes_any_name: bool

    def find_fault(
        self, reference: Reference, arguments: Mapping[str, Any] | None, given: set[str], positional: int
    ) -> CodeFault | None:
        """Describe an argument that is unknown or missing, None if all fit; arguments as of `find_fault`."""
        written = arguments or {}
        what = f"{reference.name} in {reference.where}"
        if positional > len(self.positional) and not self.takes_any_position:
            return CodeFault(f"{what} takes {len(self.positional)} arguments, not {positional}")
        by_position = self.positional[:positional]
        known = [name for name in self.keywords if name not in by_position and name not in given]
        for name in written:
            if name in by_position or name in given:
                return CodeFault(f"{what} gets {name} from the program; remove it from args", name)
            if name not in known and not self.takes_any_name:
                close = get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(known) or 'none'}"
                return CodeFault(f"{what} has no argument {escape(name, 40)}; {hint}", name)
        missing = [name for name in self.required if name not in {*by_position, *given, *written}]
        if missing:
            hint = "add it to args"
            if arguments is None:
                hint = "nothing passes it: give it a default, or name an object made with it"
            return CodeFault(f"{what} needs the argument {', '.join(missing)}; {hint}")
        return None


def _find_parameters(
    definition: ast.AST, names: Mapping[str, ast.AST | None], below: tuple[ast.AST, ...] = ()
) -> Parameters | None:
    """Return the parameters of a function or class; None where a decorator or a base may change them.

    Args:
        below: classes that inherit from this one.
    """
    if isinstance(definition, ast.ClassDef):
        if definition.decorator_list or definition.keywords:
            return None
        methods = {node.name: node for node in definition.body if isinstance(node, ast.FunctionDef)}
        if "__new__" in methods:
            return None
        if "__init__" not in methods:
            bases = [names.get(base.id) if isinstance(base, ast.Name) else None for base in definition.bases]
            if len(bases) == 1 and isinstance(bases[0], ast.ClassDef) and bases[0] not in (definition, *below):
                return _find_parameters(bases[0], names, (definition, *below))
            return None
        return _list_parameters(methods["__init__"], is_method=True)
    if isinstance(definition, ast.FunctionDef):
        return _list_parameters(definition, is_method=False)
    return None


def _list_parameters(function: ast.FunctionDef, is_method: bool) -> Parameters | None:
    if function.decorator_list:
        return None
    found = function.args
    ordered = [parameter.arg for parameter in (*found.posonlyargs, *found.args)]
    required = ordered[: len(ordered) - len(found.defaults)]
    only_names = [parameter.arg for parameter in found.kwonlyargs]
    required += [name for name, default in zip(only_names, found.kw_defaults, strict=True) if default is None]
    if is_method:
        ordered, required = ordered[1:], required[1:]
    by_name = [name for name in ordered if name not in {parameter.arg for parameter in found.posonlyargs}]
    return Parameters(
        tuple(ordered), (*by_name, *only_names), tuple(required), found.vararg is not None, found.kwarg is not None
    )
