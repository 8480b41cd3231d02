"""The reference of all settings, as configs/README.md holds it: written from the classes of `config`, never by hand."""

from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from dist_train.settings.messages import by_name, common_base, gathered, in_words, shown
from dist_train.settings.schema import Config, Section, section_classes


def settings_reference() -> str:
    """Every setting with what it may be, its default and its documentation, as Markdown."""
    lines = ["# Settings", "", "Printed by `python -m dist_train --settings`. `null` means not set.", ""]
    for name, info in Config.model_fields.items():
        lines += [*_section_reference(name, section_classes(info.annotation)), ""]
    return "\n".join(lines)


def _section_reference(name: str, classes: tuple[type[Section], ...]) -> Iterator[str]:
    base = common_base(classes)
    yield from (f"## {name}", "", _one_line(base.__doc__), "")
    for key, info in base.model_fields.items():
        names = gathered(list(by_name(classes))) if key == "name" and len(classes) > 1 else []
        yield from _setting_reference(f"{name}.{key}", info, ", ".join(names))
    for section in classes if len(classes) > 1 else ():
        yield from _own_reference(name, section)


def _setting_reference(key: str, info: FieldInfo, choices: str = "", where: str = "") -> Iterator[str]:
    words = choices or in_words(info.annotation, info.metadata)
    documentation = _one_line(info.description)
    default = " Required." if info.is_required() else f" Default: {_printed(info.default)}."
    if "Default:" in documentation or isinstance(info.default, Section):
        default = ""
    yield f"- `{key}`{where}: {words}.{default} {documentation}".rstrip()
    for section in section_classes(info.annotation):
        for name, inner in section.model_fields.items():
            yield from _setting_reference(f"{key}.{name}", inner)


def _own_reference(name: str, section: type[Section]) -> Iterator[str]:
    """What a class of a section adds; arguments of optimizers are documented in torch, so a line for all will do."""
    where = f"with `{name}.name` {', '.join(gathered(list(by_name((section,)))))}"
    own = {key: info for key, info in section.model_fields.items() if key in section.__annotations__ and key != "name"}
    for key, info in own.items():
        if info.description:
            yield from _setting_reference(f"{name}.{key}", info, where=f" ({where})")
    arguments = [f"`{key}` {shown(info.default)}" for key, info in own.items() if not info.description]
    if arguments:
        yield f"- {where}, by default: {', '.join(arguments)}"


def _printed(default: Any) -> str:
    return f"`{default if isinstance(default, str) else shown(default)}`"


def _one_line(documentation: str | None) -> str:
    return " ".join((documentation or "").split())
