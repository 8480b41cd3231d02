"""Translate or refuse the keys and values of earlier versions in a file."""

from collections.abc import Iterator

from dist_train.settings.loading.messages import (
    explain_old_value,
    explain_renamed_key,
    explain_replaced_key,
    get_last_part,
)
from dist_train.settings.loading.renames import OLD_VALUES, RENAMED_KEYS, REPLACED_KEYS, UNSET
from dist_train.settings.loading.strict_yaml import Fault, LocatedValue, get_written, set_written


def translate_old_settings(root: LocatedValue) -> None:
    """Replace the keys and values of an earlier version; an old key stays if the new one is written too."""
    for key, value in UNSET:
        entries, name = _section_of(root, key), get_last_part(key)
        if name in entries and entries[name].value == value:
            del entries[name]
    for old_key, new_key in RENAMED_KEYS.items():
        entries, old_name = _section_of(root, old_key), get_last_part(old_key)
        if old_name in entries and get_last_part(new_key) not in _section_of(root, new_key):
            set_written(root, new_key, entries.pop(old_name))
    for key, replace in REPLACED_KEYS.items():
        if entry := _section_of(root, key).pop(get_last_part(key), None):
            for new_key, value in replace(entry.value).items():
                parts = tuple(LocatedValue(part, entry.location) for part in value)
                set_written(root, new_key, LocatedValue(parts, entry.location))
    for old in OLD_VALUES:
        entries, name = _section_of(root, old.key), get_last_part(old.key)
        if name in entries and entries[name].value == old.value:
            entries[name] = LocatedValue(old.replacement, entries[name].location)


def refuse_old_settings(root: LocatedValue) -> Iterator[Fault]:
    """Yield a fault for each key and value of an earlier version, and remove it so that no other fault names it."""
    for key, new_key in RENAMED_KEYS.items():
        entries = _section_of(root, key)
        if entry := entries.pop(get_last_part(key), None):
            rivals = _section_of(root, new_key)
            rival = rivals[get_last_part(new_key)].location.text if get_last_part(new_key) in rivals else None
            yield Fault(entry.location, explain_renamed_key(key, entry.to_plain(), rival))
    for key in REPLACED_KEYS:
        if entry := _section_of(root, key).pop(get_last_part(key), None):
            yield Fault(entry.location, explain_replaced_key(key, entry.to_plain()))
    for old in OLD_VALUES:
        entries, name = _section_of(root, old.key), get_last_part(old.key)
        if name in entries and entries[name].value == old.value:
            yield Fault(entries.pop(name).location, explain_old_value(old))


def _section_of(root: LocatedValue, key: str) -> dict[str, LocatedValue]:
    """Return what is written in the section of `key`."""
    entries = get_written(root, key.rpartition(".")[0]).value
    return entries if isinstance(entries, dict) else {}
