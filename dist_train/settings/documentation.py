"""Writes the documentation of all settings, configs/README.md, from the classes of `schema`."""

from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from dist_train.settings.loading.aliases import DOCUMENTATION, SECTION
from dist_train.settings.loading.messages import (
    describe_type,
    find_common_base,
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
        section = _format_section(name, classes) if classes else _format_plain(name, info)
        lines += [*section, ""]
    lines += [f"## {SECTION}", "", " ".join(DOCUMENTATION.split()), ""]
    return "\n".join(lines)


def _format_plain(name: str, info: FieldInfo) -> Iterator[str]:
    """Yield the lines of a setting that is no section."""
    yield from (f"## {name}", "")
    yield from _format_setting(name, info)


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
                yield from _format_setting(f"loss.args.{key}", part.model_fields[key], where=where)


def _format_settings(name: str, classes: tuple[type[Section], ...]) -> Iterator[str]:
    """Yield the settings that all classes of a section have, and those that one of them adds."""
    base = find_common_base(classes)
    for key, info in base.model_fields.items():
        names = list_shown_names(classes) if key == "name" and len(classes) > 1 else []
        yield from _format_setting(f"{name}.{key}", info, ", ".join(names))
    # Classes between the common one and those of single names have settings that several share.
    parts = dict.fromkeys(part for section in classes for part in reversed(section.__mro__))
    for part in parts:
        if issubclass(part, Section) and not issubclass(base, part):
            users = tuple(section for section in classes if issubclass(section, part))
            yield from _format_own_settings(name, part, users)


def _format_setting(key: str, info: FieldInfo, choices: str = "", where: str = "") -> Iterator[str]:
    inner = section_classes(info.annotation) or item_classes(info.annotation)
    words = choices or _describe_setting(info, inner)
    documentation = _one_line(info.description)
    default = " Required." if info.is_required() else f" Default: {_format_default(info.default)}."
    if "Default:" in documentation or isinstance(info.default, Section):
        default = ""
    yield f"- `{key}`{where}: {words}.{default} {documentation}".rstrip()
    if inner:
        yield from _format_settings(key, inner)


def _describe_setting(info: FieldInfo, inner: tuple[type[Section], ...]) -> str:
    """Describe what a setting may be; the settings of a section have lines of their own."""
    if len(inner) > 1:
        return f"a mapping of {', '.join(find_common_base(inner).model_fields)}, ..."
    return describe_type(info.annotation, info.metadata)


def _format_own_settings(name: str, section: type[Section], users: tuple[type[Section], ...]) -> Iterator[str]:
    """Yield the settings that one class of a section adds; those without documentation on one line.

    Args:
        users: the classes with names that have these settings.
    """
    where = f"with `{name}.name` {', '.join(list_shown_names(users))}"
    own = {key: info for key, info in section.model_fields.items() if key in section.__annotations__ and key != "name"}
    for key, info in own.items():
        if info.description:
            yield from _format_setting(f"{name}.{key}", info, where=f" ({where})")
    arguments = [f"`{key}` {format_value(info.default)}" for key, info in own.items() if not info.description]
    if arguments:
        yield f"- {where}, by default: {', '.join(arguments)}"


def _format_default(default: Any) -> str:
    return f"`{default if isinstance(default, str) else format_value(default)}`"


def _one_line(documentation: str | None) -> str:
    return " ".join((documentation or "").split())
