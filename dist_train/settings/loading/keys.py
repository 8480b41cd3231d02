"""The keys of settings: which classes of `schema` have them, and which sections may be written as a text."""

from dist_train.own_code.reference import parse_reference
from dist_train.settings.loading.strict_yaml import LocatedValue, get_written, set_written
from dist_train.settings.schema import Config, list_keys
from dist_train.settings.schema.section import Section, item_classes, section_classes

SECTIONS = [name for name, info in Config.model_fields.items() if section_classes(info.annotation)]
NAMED = [
    name
    for name in SECTIONS
    if name != "run"
    and any("name" in each.model_fields for each in section_classes(Config.model_fields[name].annotation))
]
"""Sections that may be written as a text, which means `{name: text}`."""
LISTS = [name for name, info in Config.model_fields.items() if item_classes(info.annotation)]
"""Settings that are a list of sections; a section may also be written as a string."""


def complete(key: str) -> str:
    """Return the setting that a key of the command line means: a section that may be a text is its name."""
    return f"{key}.name" if key in NAMED else key


def expand_shorthands(root: LocatedValue) -> None:
    """Write `{name: text}` where a section, or an item in a list of sections, is a text."""
    for section in NAMED:
        entry = root.value.get(section)
        if entry is not None and isinstance(entry.value, str):
            root.value[section] = LocatedValue({"name": entry}, entry.location)
    augment = get_written(root, "data.augment")
    if isinstance(augment.value, str) and parse_reference(augment.value):
        set_written(root, "data.augment", LocatedValue({"name": augment}, augment.location))
    for key in LISTS:
        entry = root.value.get(key)
        if entry is not None and isinstance(entry.value, tuple):
            items = [
                LocatedValue({"name": item}, item.location) if isinstance(item.value, str) else item
                for item in entry.value
            ]
            root.value[key] = LocatedValue(tuple(items), entry.location)


def list_siblings(prefix: str) -> list[str]:
    """Return the keys of a section in all its classes; at the top level the names of the sections."""
    if not prefix:
        return list(Config.model_fields)
    return [key for key in list_keys((Config,)) if key.startswith(prefix) and "." not in key[len(prefix) :]]


def is_argument(key: str) -> bool:
    """Whether a dotted key leads into the arguments of a name or a reference."""
    head, separator, name = key.partition(".args.")
    return bool(separator and name) and bool(find_holders(f"{head}.args"))


def find_holders(key: str) -> list[type[Section]]:
    """Return the classes that have the setting with this dotted key."""
    *heads, name = key.split(".")
    classes: tuple[type[Section], ...] = (Config,)
    for head in heads:
        fields = [section.model_fields[head] for section in classes if head in section.model_fields]
        classes = tuple(inner for info in fields for inner in section_classes(info.annotation))
    return [section for section in classes if name in section.model_fields]
