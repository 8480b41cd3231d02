"""Apply the settings of the command line: `key=value`, and the aliases of a file."""

from collections.abc import Iterator, Mapping, Sequence

from dist_train.settings.loading.aliases import Alias, expand
from dist_train.settings.loading.checks import is_allowed
from dist_train.settings.loading.keys import SECTIONS, complete, find_holders, is_argument, list_siblings
from dist_train.settings.loading.messages import (
    explain_old_value,
    explain_renamed_key,
    explain_replaced_key,
    explain_unknown_key,
    get_last_part,
)
from dist_train.settings.loading.renames import RENAMED_KEYS, REPLACED_KEYS, find_old_value
from dist_train.settings.loading.strict_yaml import (
    FLOAT_AS_TYPED,
    MAX_BYTES,
    Fault,
    LocatedValue,
    SourceLocation,
    parse_override,
    parse_scalar,
    set_written,
)
from dist_train.settings.loading.values import shorten


def apply_overrides(root: LocatedValue, overrides: Sequence[str], aliases: Mapping[str, Alias]) -> Iterator[Fault]:
    """Set each word of the command line in the content of the file; yield what is wrong with it."""
    seen: list[str] = []
    for number, word in enumerate(overrides):
        location = SourceLocation(MAX_BYTES + 1 + number, f"command line: {shorten(word)}")
        try:
            override = expand(word, aliases) if word.startswith("--") else word
        except ValueError as error:
            yield Fault(location, str(error))
            continue
        key, equals, text = override.partition("=")
        key = complete(key)
        message = _check_override(key, text, seen) if key and equals else "is not of the form key=value"
        if message:
            yield Fault(location, message)
        elif old := find_old_value(key, (written := _parse_override(key, text, location)).value):
            yield Fault(location, explain_old_value(old))
        else:
            set_written(root, key, written)
            seen.append(key)


def check_aliases(aliases: Mapping[str, Alias]) -> Iterator[Fault]:
    """Yield a fault for each alias of a setting that does not exist."""
    for alias in aliases.values():
        if message := _check_override(complete(alias.setting), alias.value or "", []):
            yield Fault(alias.location, f"aliases: {alias.flag}: {message}")


def _check_override(key: str, text: str, seen: list[str]) -> str | None:
    if key in RENAMED_KEYS:
        return explain_renamed_key(key, parse_scalar(text, FLOAT_AS_TYPED))
    if key in REPLACED_KEYS:
        return explain_replaced_key(key, parse_scalar(text, FLOAT_AS_TYPED))
    rivals = [other for other in seen if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")]
    if key in rivals:
        return f"{key} is set twice on the command line"
    if rivals:
        return f"{shorten(key)} and {rivals[0]} are both set on the command line, and one is part of the other"
    if key in SECTIONS:
        return f"{key} is a section; set one of its keys: {', '.join(list_siblings(f'{key}.'))}"
    return (
        None
        if find_holders(key) or is_argument(key)
        else explain_unknown_key(key, list_siblings(key[: key.rfind(".") + 1]))
    )


def _parse_override(key: str, text: str, location: SourceLocation) -> LocatedValue:
    """Convert the text of an override: it stays text if the setting allows that, because a shell removes quotes.

    But `null` leaves out a setting that need not be set.
    """
    name, holders = get_last_part(key), find_holders(key)
    is_null = text == "null" and any(is_allowed(section, name, None) for section in holders)
    is_text = not is_null and any(is_allowed(section, name, text) for section in holders)
    return LocatedValue(text, location) if is_text else parse_override(text, location, key)
