"""What a setting may be, in plain words, and the words of complaints about one.

All words are derived from the classes and annotations of `config`, which are also what pydantic checks: a new setting
needs no words of its own. Where a fault was written, and whether there is one, is the matter of `loading`.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from dist_train.settings.renames import RENAMED_KEYS, OldValue
from dist_train.settings.schema import Config, Section, list_keys

MAX_SHOWN = 60
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
LIMITS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}

# The classes of a section


def by_name(classes: tuple[type[Section], ...]) -> dict[str, type[Section]]:
    return {name: section for section in classes for name in choices_of(section.model_fields["name"].annotation)}


def common_base(classes: tuple[type[Section], ...]) -> type[Section]:
    """What the classes of a section have in common."""
    return cast(type[Section], classes[0].__base__) if len(classes) > 1 else classes[0]


def own_keys(section: type[Section], classes: tuple[type[Section], ...]) -> list[str]:
    """The settings that this class of a section has and not all of them."""
    return [name for name in section.model_fields if name not in common_base(classes).model_fields]


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The fixed texts that a setting may be."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in choices_of(part))


# Complaints


def unknown_key(key: str, siblings: Sequence[str]) -> str:
    head, _, last = RENAMED_KEYS.get(key, key).rpartition(".")
    known = list_keys((Config,))
    if f"{head}.{last}" in known:
        return f"{key} cannot be one key in a file; write {last}: under {head}:"
    namesakes = [other for other in known if last_part(other) == last][:4]
    similar = get_close_matches(last.lower(), map(last_part, siblings), 1)
    close = [other for other in siblings if last_part(other) in similar]
    guesses = namesakes or close or ([] if siblings else get_close_matches(key, known, 1))
    if guesses:
        return f"{short(key)} is not a setting. Did you mean {' or '.join(guesses)}?"
    return f"{short(key)} is not a setting; allowed: {', '.join(map(last_part, siblings or Config.model_fields))}"


def renamed_key(key: str, value: Any, rival: str | None = None) -> str:
    """
    Args:
        rival: where the new key is written too.
    """
    also = f", which is set too, at {rival}: remove {key}" if rival else ""
    return f"{key} is {shown(value)}; this setting is now called {RENAMED_KEYS[key]}{also}"


def old_value(old: OldValue) -> str:
    return f"{old.key} is {shown(old.value)}; {old.advice}"


def foreign_key(prefix: str, key: str, name: str, own: list[str]) -> str:
    takes = f"{name} takes: {', '.join(own)}" if own else f"{name} has none of its own"
    return f"{prefix}{key} is not a setting of {prefix}name {name}; {takes}"


def wrong_name(key: str, value: Any, classes: tuple[type[Section], ...]) -> str:
    choices = list(by_name(classes))
    what = "missing" if value is None else shown(value)
    return f"{key} is {what}; allowed: {', '.join(gathered(choices))}{did_you_mean(value, choices)}"


def did_you_mean(value: Any, choices: Sequence[str]) -> str:
    if not isinstance(value, str):
        return ""
    namesakes = [choice for choice in choices if choice.endswith(f"/{value}")]
    close = namesakes or get_close_matches(value.lower(), choices, 1)
    return f". Did you mean {close[0]}?" if close else ""


def last_part(key: str) -> str:
    return key.rpartition(".")[2]


# What a setting allows


def demand(info: FieldInfo) -> str:
    words = in_words(info.annotation, info.metadata)
    return f"allowed: {words}" if get_origin(info.annotation) is Literal else f"it must be {words}"


def in_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What an annotation allows, in plain words: `a number of at least 0 and below 1`."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return in_words(parts[0], parts[1:])
    if get_origin(annotation) is Literal:
        return ", ".join(parts)
    if get_origin(annotation) in (Union, UnionType):
        return ", or ".join(map(in_words, parts))
    if get_origin(annotation) is tuple:
        return _words_of_list(parts, metadata)
    if get_origin(annotation) is dict:
        return f"a mapping whose keys are {in_words(parts[0])} and whose values are {in_words(parts[1])}"
    if annotation in KINDS:
        return " ".join([KINDS[annotation], *_limits(metadata)])
    return f"a mapping of {', '.join(annotation.model_fields)}"


def _words_of_list(parts: tuple[Any, ...], metadata: Sequence[Any]) -> str:
    kinds = list(dict.fromkeys(in_words(part) for part in parts if part is not Ellipsis))
    size = "" if Ellipsis in parts else f" of {len(parts)}"
    items = f"each {kinds[0]}" if len(kinds) == 1 else ", then ".join(kinds)
    return f"{' '.join([f'a list{size}', *_limits(metadata)])}, {items}"


def _limits(metadata: Sequence[Any]) -> list[str]:
    checks = [check for item in metadata for check in (item.metadata if isinstance(item, FieldInfo) else [item])]
    bounds = [f"{words} {bound}" for key, words in LIMITS.items() for bound in _bounds(checks, key)]
    empty = ["that is not empty"] if _bounds(checks, "min_length") else []
    patterns = [f"that matches {pattern}" for pattern in _bounds(checks, "pattern")]
    return [" and ".join(bounds)] * bool(bounds) + empty + patterns


def _bounds(checks: Sequence[Any], key: str) -> list[Any]:
    return [bound for check in checks if (bound := getattr(check, key, None)) is not None]


def gathered(names: list[str]) -> list[str]:
    """The names, those with a slash as one entry for all of a kind: nobody reads 80."""
    return list(dict.fromkeys(f"{name.partition('/')[0]}/<model>" if "/" in name else name for name in names))


# Values and names on one line


def shown(value: Any) -> str:
    """A value as YAML would have it, on one line and short."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items()) + "}"
    elif isinstance(value, tuple):
        text = "[" + ", ".join(map(shown, value)) + "]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = pointed(repr(value)) if isinstance(value, float) else repr(value)
    return short(text)


def short(text: str) -> str:
    """`text` on one line, cut where nobody reads on."""
    line = text if text.isprintable() else repr(text)[1:-1]
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 3]}..."


def pointed(number: str) -> str:
    """A number whose exponent YAML understands: `3e-4` becomes `3.0e-4`."""
    return number if "." in number else re.sub("[eE]", ".0e", number)
