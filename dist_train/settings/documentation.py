"""Write the documentation of all settings, configs/README.md, from the classes of `schema`."""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

from pydantic.fields import FieldInfo

from dist_train.settings.loading.aliases import DOCUMENTATION, SECTION
from dist_train.settings.loading.messages import (
    describe_type,
    find_common_base,
    find_unnamed,
    get_last_part,
    list_shown_names,
)
from dist_train.settings.loading.values import format_value
from dist_train.settings.schema import Config
from dist_train.settings.schema.section import Section, item_classes, section_classes
from dist_train.settings.tasks import LOSS_ARGUMENTS


def format_documentation() -> str:
    """Return every setting with its allowed values, default and documentation, as Markdown."""
    lines = ["# Settings", "", "Printed by `python -m dist_train --settings`. `null` means not set.", ""]
    for name, info in Config.model_fields.items():
        classes = section_classes(info.annotation)
        section = _format_section(name, classes) if classes else _format_plain(name)
        lines += [*section, ""]
    lines += [f"## {SECTION}", "", " ".join(DOCUMENTATION.split()), ""]
    return "\n".join(lines)


def find_documentation(section: type[Section], key: str) -> str:
    """Return the docstring under a setting in the class that declares it, "" without one."""
    owner = next(each for each in section.__mro__ if key in inspect.get_annotations(each))
    return _read_documentation(owner.__module__).get((owner.__name__, key), "")


@cache
def _read_documentation(module: str) -> dict[tuple[str, str], str]:
    """Return the docstrings under the settings of a module, by class and key.

    pydantic can do this too, but at each import, which then takes twice as long.
    """
    tree = ast.parse(inspect.getsource(import_module(module)))
    classes = [each for each in tree.body if isinstance(each, ast.ClassDef)]
    return {
        (section.name, setting.target.id): text.value.value
        for section in classes
        for setting, text in pairwise(section.body)
        if isinstance(setting, ast.AnnAssign) and isinstance(setting.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _format_plain(name: str) -> Iterator[str]:
    """Yield the lines of a setting that is no section."""
    yield from (f"## {name}", "")
    yield from _format_setting(name, Config)


def _format_section(name: str, classes: tuple[type[Section], ...]) -> Iterator[str]:
    yield from (f"## {name}", "", _one_line(find_common_base(classes).__doc__), "")
    yield from _format_settings(name, classes)
    if name == "loss":
        yield from _format_loss_arguments()


def _format_loss_arguments() -> Iterator[str]:
    """Yield the arguments of our losses, each once for all losses that share it."""
    for part in dict.fromkeys(part for section in LOSS_ARGUMENTS.values() for part in reversed(section.__mro__)):
        if issubclass(part, Section):
            users = [name for name, section in LOSS_ARGUMENTS.items() if issubclass(section, part)]
            for key in part.__annotations__ if part is not Section else ():
                where = f" (with `loss.name` {', '.join(users)})"
                yield from _format_setting(f"loss.args.{key}", part, where=where)


def _format_settings(name: str, classes: tuple[type[Section], ...]) -> Iterator[str]:
    """Yield the settings of the class without a name, or those that all have, and those that one of them adds."""
    base = find_unnamed(classes) or find_common_base(classes)
    for key in base.model_fields:
        names = list_shown_names(classes) if key == "name" and len(classes) > 1 else []
        yield from _format_setting(f"{name}.{key}", base, ", ".join(names))
    # Classes between the common one and those of single names have settings that several share.
    parts = dict.fromkeys(part for section in classes for part in reversed(section.__mro__))
    for part in parts:
        if issubclass(part, Section) and not issubclass(base, part):
            users = tuple(section for section in classes if issubclass(section, part))
            yield from _format_own_settings(name, part, users)


def _format_setting(key: str, section: type[Section], choices: str = "", where: str = "") -> Iterator[str]:
    name = get_last_part(key)
    info = section.model_fields[name]
    inner = section_classes(info.annotation) or item_classes(info.annotation)
    words = choices or _describe_setting(info, inner)
    documentation = _one_line(find_documentation(section, name))
    default = " Required." if info.is_required() else f" Default: {_format_default(info.default)}."
    if "Default:" in documentation or isinstance(info.default, Section):
        default = ""
    yield f"- `{key}`{where}: {words}.{default} {documentation}".rstrip()
    if inner:
        yield from _format_settings(key, inner)


def _describe_setting(info: FieldInfo, inner: tuple[type[Section], ...]) -> str:
    """Describe what a setting may be; the settings of a section have lines of their own."""
    if len(inner) > 1 and not find_unnamed(inner):
        return f"a mapping of {', '.join(find_common_base(inner).model_fields)}, ..."
    return describe_type(info.annotation, info.metadata)


def _format_own_settings(name: str, section: type[Section], users: tuple[type[Section], ...]) -> Iterator[str]:
    """Yield the settings that one class of a section adds; those without documentation on one line.

    Args:
        users: the classes with names that have these settings.
    """
    where = f"with `{name}.name` {', '.join(list_shown_names(users))}"
    own = {key: info for key, info in section.model_fields.items() if key in section.__annotations__ and key != "name"}
    documented = [key for key in own if find_documentation(section, key)]
    for key in documented:
        yield from _format_setting(f"{name}.{key}", section, where=f" ({where})")
    arguments = [f"`{key}` {format_value(info.default)}" for key, info in own.items() if key not in documented]
    if arguments:
        yield f"- {where}, by default: {', '.join(arguments)}"


def _format_default(default: Any) -> str:
    return f"`{default if isinstance(default, str) else format_value(default)}`"


def _one_line(documentation: str | None) -> str:
    return " ".join((documentation or "").split())
