"""Find what is wrong in a section of settings; pydantic alone decides whether a value is allowed."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from dist_train.settings.loading.messages import (
    describe_field,
    explain_foreign_key,
    explain_unknown_key,
    explain_wrong_name,
    find_common_base,
    find_meaning,
    find_unnamed,
    list_choices,
    list_own_keys,
    map_names_to_classes,
    suggest_choice,
)
from dist_train.settings.loading.strict_yaml import (
    FLOAT,
    FLOAT_AS_TYPED,
    Fault,
    LocatedValue,
    get_written,
    parse_scalar,
)
from dist_train.settings.loading.values import add_decimal_point, format_value, shorten
from dist_train.settings.schema.section import Section, item_classes, section_classes
from dist_train.settings.tasks import LOSS_ARGUMENTS, TASKS


def check_section(classes: tuple[type[Section], ...], prefix: str, written: LocatedValue) -> Iterator[Fault]:
    """Yield all faults of a section.

    Args:
        classes: those that the section may have; its `name` selects one.
        prefix: of its keys in messages, such as `optim.`.
    """
    chosen = _find_class(classes, written)
    if chosen is None:
        name = get_written(written, "name")
        yield Fault(name.location, explain_wrong_name(f"{prefix}name", name.to_plain(), classes))
    section = chosen or find_common_base(classes)
    for key, entry in written.value.items():
        if key == "name" and chosen is None:
            continue
        elif key in section.model_fields:
            yield from _check_setting(section, prefix, key, entry)
        elif not any(key in other.model_fields for other in classes):
            yield from _refuse_unknown(section, prefix, key, entry)
        elif chosen and "name" not in written.value:
            yield Fault(entry.location, f"{prefix}{key} is set, and {prefix}name is missing; add it")
        elif chosen:
            yield Fault(
                entry.location,
                explain_foreign_key(prefix, key, written.value["name"].value, list_own_keys(chosen, classes)),
            )
    for key, info in section.model_fields.items():
        if chosen and info.is_required() and key not in written.value:
            yield Fault(written.location, f"{prefix}{key} is missing; {describe_field(info)}")


def _refuse_unknown(section: type[Section], prefix: str, key: str, entry: LocatedValue) -> Iterator[Fault]:
    """Yield the fault of a key that no section has, and of each key in it that is a word of another program."""
    siblings = [f"{prefix}{name}" for name in section.model_fields]
    yield Fault(entry.location, explain_unknown_key(f"{prefix}{key}", siblings))
    for inner, written in entry.value.items() if isinstance(entry.value, dict) else ():
        if find_meaning(inner):
            yield Fault(written.location, explain_unknown_key(f"{prefix}{key}.{inner}", []))


def check_loss_arguments(root: LocatedValue) -> Iterator[Fault]:
    """Check the arguments of a built-in loss; those of the user's loss are checked against its signature."""
    task, name = get_written(root, "task").value or "classification", get_written(root, "loss.name").value
    name = TASKS[task].loss if name is None and task in TASKS else name
    arguments = get_written(root, "loss.args")
    if name not in LOSS_ARGUMENTS or not isinstance(arguments.value, dict):
        return
    if LOSS_ARGUMENTS[name].model_fields:
        yield from check_section((LOSS_ARGUMENTS[name],), "loss.args.", arguments)
    elif arguments.value:
        yield Fault(
            arguments.location, f"loss.args has {shorten(', '.join(arguments.value))}; {name} takes no arguments"
        )


def _check_setting(section: type[Section], prefix: str, name: str, entry: LocatedValue) -> Iterator[Fault]:
    info = section.model_fields[name]
    inner = section_classes(info.annotation)
    if inner and isinstance(entry.value, dict):
        yield from check_section(inner, f"{prefix}{name}.", entry)
    elif (items := item_classes(info.annotation)) and _is_list_of_sections(entry.value):
        for number, item in enumerate(entry.value):
            yield from check_section(items, f"{prefix}{name}[{number}].", item)
    elif not is_allowed(section, name, value := entry.to_plain()):
        correction = _suggest_correction(section, name, value)
        what = f"the text {format_value(value)}" if correction and isinstance(value, str) else format_value(value)
        wanted = correction or describe_field(info) + suggest_choice(value, list_choices(info.annotation))
        yield Fault(entry.location, f"{prefix}{name} is {what}; {wanted}")


def _is_list_of_sections(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item.value, dict) for item in value)


def is_allowed(section: type[Section], name: str, value: Any) -> bool:
    """Whether pydantic accepts `value`; faults of other settings, such as missing ones, are ignored."""
    try:
        section.model_validate({name: value})
    except ValidationError as error:
        return all(fault["loc"][0] != name for fault in error.errors(include_url=False, include_input=False))
    return True


def _suggest_correction(section: type[Section], name: str, value: Any) -> str | None:
    """Return how to correct text that was meant as a number, or the reverse; None if that is not the fault."""
    parts = value if isinstance(value, tuple) else (value,)
    numbers = tuple(parse_scalar(part, FLOAT_AS_TYPED) if isinstance(part, str) else part for part in parts)
    if numbers != parts and is_allowed(section, name, numbers if isinstance(value, tuple) else numbers[0]):
        text = next(part for part, number in zip(parts, numbers, strict=True) if part != number)
        if parse_scalar(text, FLOAT) != text:
            return "remove the quotes"
        number = add_decimal_point(text)
        return f"YAML reads a number with an exponent as text unless it has a decimal point: write {number}"
    if isinstance(value, int | float) and is_allowed(section, name, str(value)):
        return "it must be text: put it in quotes"
    return None


def _find_class(classes: tuple[type[Section], ...], written: LocatedValue) -> type[Section] | None:
    """Return the class that the section's `name` selects, or its only one, or that without a name; None if unknown."""
    if len(classes) == 1:
        return classes[0]
    if "name" not in written.value and (unnamed := find_unnamed(classes)):
        return unnamed
    name = get_written(written, "name").value
    if not isinstance(name, str):
        return None
    fixed = map_names_to_classes(classes)
    others = (section for section in classes if section not in fixed.values())
    return fixed.get(name) or next((section for section in others if is_allowed(section, "name", name)), None)
