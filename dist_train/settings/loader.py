"""Reads a settings file and `key=value` overrides strictly into a Config.

    file ─ YAML nodes ─┐
                       ├─> LocatedValue, values with their lines ─> all faults, or a Config
    key=value ─────────┘

`strict_yaml` reads the file, `checks` finds what is wrong in each section, and `messages` derives the text of a message
from the annotation that pydantic checks.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dist_train.errors import ConfigError
from dist_train.own_code.reference import parse_reference
from dist_train.recipes import find_config, find_folder
from dist_train.settings.loading.aliases import Alias, expand, take_aliases
from dist_train.settings.loading.checks import check_loss_arguments, check_section, is_allowed
from dist_train.settings.loading.messages import (
    explain_old_value,
    explain_renamed_key,
    explain_replaced_key,
    explain_unknown_key,
    get_last_part,
    map_names_to_classes,
)
from dist_train.settings.loading.paths import PATHS, expand_path
from dist_train.settings.loading.references import resolve_references
from dist_train.settings.loading.renames import OLD_VALUES, RENAMED_KEYS, REPLACED_KEYS, UNSET, find_old_value
from dist_train.settings.loading.strict_yaml import (
    FLOAT,
    FLOAT_AS_TYPED,
    MAX_BYTES,
    Fault,
    LocatedValue,
    SourceLocation,
    get_written,
    parse_override,
    parse_scalar,
    read_file,
)
from dist_train.settings.loading.values import format_value, shorten
from dist_train.settings.schema import Config, LineData, TableData, find_contradictions, list_keys
from dist_train.settings.schema.section import Section, item_classes, section_classes
from dist_train.settings.tasks import find_task_contradictions
from dist_train.system.escape import escape
from dist_train.system.read_file import is_file

_S = TypeVar("_S", bound=Section)
_SECTIONS = [name for name, info in Config.model_fields.items() if section_classes(info.annotation)]
_NAMED = [
    name
    for name in _SECTIONS
    if name != "run"
    and any("name" in each.model_fields for each in section_classes(Config.model_fields[name].annotation))
]
"""Sections for which a text stands for `{name: text}`."""
_LISTS = [name for name, info in Config.model_fields.items() if item_classes(info.annotation)]
"""Lists of sections for which it does."""
_ROWS = map_names_to_classes((LineData, TableData))
"""Data sets without images, which have no folder and no cache."""
MAX_FAULTS = 50
MAX_MESSAGE = 2000  # characters


def load_config(path: str | Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings of a file, or of a recipe by its name, and of `key=value` overrides.

    The `config.yaml` of a run, next to its `run.lock`, may have keys and values of an earlier version.

    Args:
        environ: environment variables; default: those of the process.

    Raises:
        ConfigError: names every fault of both, one a line.
    """
    path = find_config(path)
    is_of_run = path.name == "config.yaml" and is_file(path.with_name("run.lock"))
    return _load(path, overrides, environ, is_of_run)


def load_run_config(
    path: str | Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Config:
    """Read settings that this version or an earlier one has written; otherwise as `load_config`.

    Old keys and values are translated in the file, and refused in `overrides`.
    """
    return _load(Path(path), overrides, environ, is_of_run=True)


def _load(path: Path, overrides: Sequence[str], environ: Mapping[str, str] | None, is_of_run: bool) -> Config:
    root, faults = read_file(path)
    aliases, wrong = take_aliases(root)
    faults += [*wrong, *_check_aliases(aliases)]
    _expand_shorthands(root)
    if is_of_run:
        _translate(root)
    faults += _refuse_old_settings(root)
    faults += _apply_overrides(root, overrides, aliases)
    _expand_items(root)
    _set_defaults(root, path.stem, os.environ if environ is None else environ)
    faults += islice(check_section((Config,), "", root), MAX_FAULTS + 1)
    faults += [] if faults else check_loss_arguments(root)
    faults += _expand_paths(root, os.environ if environ is None else environ, is_of_run)
    if not is_of_run and not faults:
        faults += resolve_references(root, find_folder(path), os.environ if environ is None else environ)
    _raise_if_any(faults)
    config = Config.model_validate(root.to_plain())
    found = (*find_contradictions(config), *find_task_contradictions(config))
    _raise_if_any([Fault(get_written(root, key).location, f"{key} {message}") for key, message in found])
    return config


def load_section(path: str | Path, kind: type[_S]) -> _S:
    """Read a file that holds a single section.

    Raises:
        ConfigError: names every fault, one a line.
    """
    root, faults = read_file(Path(path))
    _raise_if_any(faults + list(islice(check_section((kind,), "", root), MAX_FAULTS + 1)))
    return kind.model_validate(root.to_plain())


def to_yaml(config: Config) -> str:
    """Return the resolved settings as YAML that loads as an equal Config."""
    return yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, width=120)


def _raise_if_any(faults: list[Fault]) -> None:
    if faults:
        ordered = sorted(faults, key=lambda fault: fault.location.order)
        lines = [f"{fault.location.text}: {escape(fault.message, MAX_MESSAGE)}" for fault in ordered]
        more = ["and more of this kind"] if len(lines) > MAX_FAULTS else []
        raise ConfigError("\n".join(lines[:MAX_FAULTS] + more))


# The command line


def _apply_overrides(root: LocatedValue, overrides: Sequence[str], aliases: Mapping[str, Alias]) -> Iterator[Fault]:
    seen: list[str] = []
    for number, word in enumerate(overrides):
        location = SourceLocation(MAX_BYTES + 1 + number, f"command line: {shorten(word)}")
        try:
            override = expand(word, aliases) if word.startswith("--") else word
        except ValueError as error:
            yield Fault(location, str(error))
            continue
        key, equals, text = override.partition("=")
        key = _complete(key)
        message = _check_override(key, text, seen) if key and equals else "is not of the form key=value"
        if message:
            yield Fault(location, message)
        elif old := find_old_value(key, (written := _parse_override(key, text, location)).value):
            yield Fault(location, explain_old_value(old))
        else:
            _set(root, key, written)
            seen.append(key)


def _check_aliases(aliases: Mapping[str, Alias]) -> Iterator[Fault]:
    for alias in aliases.values():
        if message := _check_override(_complete(alias.setting), alias.value or "", []):
            yield Fault(alias.location, f"aliases: {alias.flag}: {message}")


def _complete(key: str) -> str:
    """Return the setting that a key of the command line means: a section that may be a text is its name."""
    return f"{key}.name" if key in _NAMED else key


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
    if key in _SECTIONS:
        return f"{key} is a section; set one of its keys: {', '.join(_list_siblings(f'{key}.'))}"
    return (
        None
        if _find_holders(key) or _is_argument(key)
        else explain_unknown_key(key, _list_siblings(key[: key.rfind(".") + 1]))
    )


def _parse_override(key: str, text: str, location: SourceLocation) -> LocatedValue:
    """Convert the text of an override: it stays text if the setting allows that, because a shell removes quotes.

    But `null` leaves out a setting that need not be set.
    """
    name, holders = get_last_part(key), _find_holders(key)
    is_null = text == "null" and any(is_allowed(section, name, None) for section in holders)
    is_text = not is_null and any(is_allowed(section, name, text) for section in holders)
    return LocatedValue(text, location) if is_text else parse_override(text, location, key)


def _set(root: LocatedValue, key: str, written: LocatedValue) -> None:
    *heads, name = key.split(".")
    entries = root.value
    for head in heads:
        if head not in entries or not isinstance(entries[head].value, dict):
            entries[head] = LocatedValue({}, written.location)
        entries = entries[head].value
    entries[name] = written


def _expand_shorthands(root: LocatedValue) -> None:
    """Write `{name: text}` where a section is a text."""
    for section in _NAMED:
        entry = root.value.get(section)
        if entry is not None and isinstance(entry.value, str):
            root.value[section] = LocatedValue({"name": entry}, entry.location)


def _expand_items(root: LocatedValue) -> None:
    """Write `{name: text}` where an item in a list of sections is a text."""
    for key in _LISTS:
        entry = root.value.get(key)
        if entry is not None and isinstance(entry.value, tuple):
            items = [
                LocatedValue({"name": item}, item.location) if isinstance(item.value, str) else item
                for item in entry.value
            ]
            root.value[key] = LocatedValue(tuple(items), entry.location)


# Settings of earlier versions


def _translate(root: LocatedValue) -> None:
    """Replace the keys and values of an earlier version; an old key stays if the new one is written too."""
    for key, value in UNSET:
        entries, name = _section_of(root, key), get_last_part(key)
        if name in entries and entries[name].value == value:
            del entries[name]
    for old_key, new_key in RENAMED_KEYS.items():
        entries, old_name = _section_of(root, old_key), get_last_part(old_key)
        if old_name in entries and get_last_part(new_key) not in _section_of(root, new_key):
            _set(root, new_key, entries.pop(old_name))
    for key, replace in REPLACED_KEYS.items():
        if entry := _section_of(root, key).pop(get_last_part(key), None):
            for new_key, value in replace(entry.value).items():
                parts = tuple(LocatedValue(part, entry.location) for part in value)
                _set(root, new_key, LocatedValue(parts, entry.location))
    for old in OLD_VALUES:
        entries, name = _section_of(root, old.key), get_last_part(old.key)
        if name in entries and entries[name].value == old.value:
            entries[name] = LocatedValue(old.replacement, entries[name].location)


def _refuse_old_settings(root: LocatedValue) -> Iterator[Fault]:
    """Faults for keys and values of an earlier version, which are removed so that no other fault names them."""
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


# Defaults that depend on the environment and on other settings


def _set_defaults(root: LocatedValue, file_stem: str, environ: Mapping[str, str]) -> None:
    for section in _SECTIONS:
        _set_default(root, section, {}, root.location)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", file_stem).lstrip(".-") or "run"
    _set_default(root, "run.name", name, root.location)
    _set_default(root, "run.dir", f"runs/{get_written(root, 'run.name').to_plain()}", root.location)
    data = str(get_written(root, "data.name").value)
    if parse_reference(data) is None:
        _set_default(root, "data.augment", {}, root.location)
    if parse_reference(data) is None and data not in _ROWS:
        _set_default(root, "data.root", environ.get("DIST_TRAIN_DATA") or "data", SourceLocation(0, "$DIST_TRAIN_DATA"))
        _set_default(root, "data.cache", find_default_cache(environ), SourceLocation(0, "$XDG_CACHE_HOME"))
    _set_default(root, "optim.name", "sgd", root.location)
    if get_written(root, "train.max_steps").value is None:
        _set_default(root, "train.epochs", 10, root.location)


def find_default_cache(environ: Mapping[str, str]) -> str:
    """Return the cache of a user who names none; where the home directory is unknown, one for temporary files."""
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return str(Path(base, "dist-train").expanduser())
    except RuntimeError:
        return (
            f"{base}/dist-train" if "XDG_CACHE_HOME" in environ else f"{tempfile.gettempdir()}/dist-train-{os.getuid()}"
        )


def _set_default(root: LocatedValue, key: str, value: Any, location: SourceLocation) -> None:
    """Set `key` if it is not written or null; a section that is not a mapping is left to the checks."""
    head, _, name = key.rpartition(".")
    entries = get_written(root, head).value if head else root.value
    if isinstance(entries, dict) and (name not in entries or entries[name].value is None):
        entries[name] = LocatedValue(value, entries[name].location if name in entries else location)


def _expand_paths(root: LocatedValue, environ: Mapping[str, str], is_of_run: bool) -> Iterator[Fault]:
    """Expand `~` and `$NAME` in paths; those in the file of a run have been expanded before."""
    for key in PATHS:
        value, location = get_written(root, key).value, get_written(root, key).location
        if isinstance(value, str) and not (is_of_run and 0 < location.order <= MAX_BYTES):
            try:
                _set(root, key, LocatedValue(expand_path(value, environ), location))
            except ValueError as error:
                yield Fault(location, f"{key} is {format_value(value)}; {error}")


# Keys


def _list_siblings(prefix: str) -> list[str]:
    """Return the keys of a section in all its classes; at the top level the names of the sections."""
    if not prefix:
        return list(Config.model_fields)
    return [key for key in list_keys((Config,)) if key.startswith(prefix) and "." not in key[len(prefix) :]]


def _is_argument(key: str) -> bool:
    """Whether a dotted key leads into the arguments of a name or a reference."""
    head, separator, name = key.partition(".args.")
    return bool(separator and name) and bool(_find_holders(f"{head}.args"))


def _find_holders(key: str) -> list[type[Section]]:
    """Return the classes that have the setting with this dotted key."""
    *heads, name = key.split(".")
    classes: tuple[type[Section], ...] = (Config,)
    for head in heads:
        fields = [section.model_fields[head] for section in classes if head in section.model_fields]
        classes = tuple(inner for info in fields for inner in section_classes(info.annotation))
    return [section for section in classes if name in section.model_fields]


# Writing


class _Dumper(yaml.SafeDumper):
    """Quotes text that `parse_scalar` or another YAML reader would read as something else; lists are on one line."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{FLOAT.pattern})$"), None)
_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
