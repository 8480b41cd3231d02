"""Messages about settings: what a setting may be, and what is wrong with a value or a key.

All text is derived from the classes and annotations of `schema`, which pydantic checks too: a new setting needs no
message of its own.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from dist_train.settings.loading.renames import RENAMED_KEYS, REPLACED_KEYS, OldValue, translate_word
from dist_train.settings.loading.values import format_value, shorten
from dist_train.settings.schema import Config, list_keys
from dist_train.settings.schema.optim import UNSUPPORTED_NAMES
from dist_train.settings.schema.section import Section, Words

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
LIMITS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}

# The classes of a section


def map_names_to_classes(classes: tuple[type[Section], ...]) -> dict[str, type[Section]]:
    named = [section for section in classes if "name" in section.model_fields]
    return {name: section for section in named for name in list_choices(section.model_fields["name"].annotation)}


def find_unnamed(classes: tuple[type[Section], ...]) -> type[Section] | None:
    """Return the class of a section that has no name; None if all have one."""
    return next((section for section in classes if "name" not in section.model_fields), None)


def find_common_base(classes: tuple[type[Section], ...]) -> type[Section]:
    """Return the class with the fields that all classes of a section have."""
    return next(base for base in classes[0].__mro__ if all(issubclass(section, base) for section in classes))


def list_own_keys(section: type[Section], classes: tuple[type[Section], ...]) -> list[str]:
    """Return the settings that this class of a section has in addition to the common ones."""
    return [name for name in section.model_fields if name not in find_common_base(classes).model_fields]


def list_choices(annotation: Any) -> tuple[str, ...]:
    """Return the fixed texts that a setting may be."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in list_choices(part))


# Messages


def explain_unknown_key(key: str, siblings: Sequence[str]) -> str:
    """Describe that there is no such setting, and which one may be meant."""
    if ":" in key:
        return f"{shorten(key)} is not a setting; write a space after the colon, as in lr: 0.1"
    head, _, last = RENAMED_KEYS.get(key, key).rpartition(".")
    known = list_keys((Config,))
    is_one_key = f"{head}.{last}" in known or ".args." in f"{head}."
    if is_one_key and not any(other.startswith(f"{head}.") for other in siblings):
        return f"{key} cannot be one key in a file; write {last}: under {head}:"
    if meaning := find_meaning(key, siblings):
        return f"{shorten(key)} is not a setting; here it is {meaning}"
    namesakes = [other for other in known if get_last_part(other) == last]
    depth = min((other.count(".") for other in namesakes), default=0)
    namesakes = [other for other in namesakes if other.count(".") == depth][:4]
    similar = get_close_matches(last.lower(), map(get_last_part, siblings), 1)
    close = [other for other in siblings if get_last_part(other) in similar]
    guesses = namesakes or close or ([] if siblings else get_close_matches(key, known, 1))
    if guesses:
        return f"{shorten(key)} is not a setting. Did you mean {' or '.join(guesses)}?"
    return f"{shorten(key)} is not a setting; allowed: {', '.join(map(get_last_part, siblings or Config.model_fields))}"


def find_meaning(key: str, siblings: Sequence[str] = ()) -> str | None:
    """Return what a key of another program is called here: a sibling of this name, if there is one."""
    if (meaning := translate_word(key)) is None:
        return None
    setting = re.split("[:,]", meaning)[0]
    own = [other for other in siblings if get_last_part(other) == get_last_part(setting) and other != setting]
    return own[0] if own else meaning


def explain_renamed_key(key: str, value: Any, rival: str | None = None) -> str:
    """Return the message for an old key.

    Args:
        rival: where the new key is written, if it is.
    """
    also = f", which is set too, at {rival}: remove {key}" if rival else ""
    return f"{key} is {format_value(value)}; this setting is now called {RENAMED_KEYS[key]}{also}"


def explain_replaced_key(key: str, value: Any) -> str:
    """Return the message for an old key that several took the place of, with their values for its own."""
    replaced = REPLACED_KEYS[key](value)
    written = " and ".join(f"{new}={format_value(each)}" for new, each in (replaced or REPLACED_KEYS[key](1)).items())
    wanted = f"write {written}" if replaced else f"for 1 write {written}"
    return f"{key} is {format_value(value)}; this setting was replaced: {wanted}"


def explain_old_value(old: OldValue) -> str:
    return f"{old.key} is {format_value(old.value)}; {old.advice}"


def explain_foreign_key(prefix: str, key: str, name: str, own: list[str]) -> str:
    takes = f"{name} takes: {', '.join(own)}" if own else f"{name} has none of its own"
    return f"{prefix}{key} is not a setting of {prefix}name {name}; {takes}"


def explain_wrong_name(key: str, value: Any, classes: tuple[type[Section], ...]) -> str:
    if isinstance(value, str) and (reason := UNSUPPORTED_NAMES.get(key, {}).get(value.lower())):
        return f"{key} is {format_value(value)}, which is not supported: {reason}"
    what = "missing" if value is None else format_value(value)
    choices = list(map_names_to_classes(classes))
    return f"{key} is {what}; allowed: {', '.join(list_shown_names(classes))}{suggest_choice(value, choices)}"


def list_shown_names(classes: tuple[type[Section], ...]) -> list[str]:
    """Return the names that select a class of a section, those of a library as one, and how others are called."""
    named = map_names_to_classes(classes)
    others = [section.shown_name for section in classes if section not in (*named.values(), find_unnamed(classes))]
    return [*group_names(list(named)), *others]


def suggest_choice(value: Any, choices: Sequence[str]) -> str:
    if not isinstance(value, str):
        return ""
    namesakes = [choice for choice in choices if choice.endswith(f"/{value}")]
    close = namesakes or get_close_matches(value.lower(), choices, 1)
    return f". Did you mean {close[0]}?" if close else ""


def get_last_part(key: str) -> str:
    return key.rpartition(".")[2]


# What a setting allows


def describe_field(info: FieldInfo) -> str:
    words = describe_type(info.annotation, info.metadata)
    return f"allowed: {words}" if get_origin(info.annotation) is Literal else f"it must be {words}"


def describe_type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Describe what an annotation allows: `a number of at least 0 and below 1`."""
    parts = get_args(annotation)
    if words := [each.text for each in metadata if isinstance(each, Words)]:
        return words[0]
    if get_origin(annotation) is Annotated:
        return describe_type(parts[0], parts[1:])
    if get_origin(annotation) is Literal:
        return ", ".join(parts)
    if get_origin(annotation) in (Union, UnionType):
        return ", or ".join(map(describe_type, parts))
    if get_origin(annotation) is tuple:
        return _describe_list(parts, metadata)
    if get_origin(annotation) is dict:
        return f"a mapping whose keys are {describe_type(parts[0])} and whose values are {describe_type(parts[1])}"
    if annotation in KINDS:
        return " ".join([KINDS[annotation], *_describe_limits(metadata)])
    return f"a mapping of {', '.join(annotation.model_fields)}"


def _describe_list(parts: tuple[Any, ...], metadata: Sequence[Any]) -> str:
    kinds = list(dict.fromkeys(describe_type(part) for part in parts if part is not Ellipsis))
    size = "" if Ellipsis in parts else f" of {len(parts)}"
    items = f"each {kinds[0]}" if len(kinds) == 1 else ", then ".join(kinds)
    return f"{' '.join([f'a list{size}', *_describe_limits(metadata)])}, {items}"


def _describe_limits(metadata: Sequence[Any]) -> list[str]:
    checks = [check for item in metadata for check in (item.metadata if isinstance(item, FieldInfo) else [item])]
    bounds = [f"{words} {bound}" for key, words in LIMITS.items() for bound in _find_bounds(checks, key)]
    empty = ["that is not empty"] if _find_bounds(checks, "min_length") else []
    patterns = [f"that matches {pattern}" for pattern in _find_bounds(checks, "pattern")]
    return [" and ".join(bounds)] * bool(bounds) + empty + patterns


def _find_bounds(checks: Sequence[Any], key: str) -> list[Any]:
    return [bound for check in checks if (bound := getattr(check, key, None)) is not None]


def group_names(names: list[str]) -> list[str]:
    """Merge names with a slash into one entry for each prefix, to keep the list short."""
    return list(dict.fromkeys(f"{name.partition('/')[0]}/<model>" if "/" in name else name for name in names))
