"""A file of settings and `key=value` from the command line, read strictly into a Config.

    file ─ compose ─> nodes ─┐
                             ├─> Written: values, each with its place ─> faults, all of them ─> Config
    key=value ───────────────┘

PyYAML's own loader is not used: of a doubled key it silently keeps the last, and it reads `12:30:00` as 45000, `010`
as 8 and `on` as true. Here a plain scalar is null, true, false, a decimal number, or text. Whether a value is allowed
is pydantic's matter alone; `wording` derives the words of a complaint from the same annotation that pydantic checks.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from dist_train.errors import ConfigError
from dist_train.settings.messages import (
    by_name,
    choices_of,
    common_base,
    demand,
    did_you_mean,
    foreign_key,
    last_part,
    old_value,
    own_keys,
    pointed,
    renamed_key,
    short,
    shown,
    unknown_key,
    wrong_name,
)
from dist_train.settings.renames import OLD_VALUES, RENAMED_KEYS, find_old_value
from dist_train.settings.schema import Config, Section, find_contradictions, list_keys, section_classes

_S = TypeVar("_S", bound=Section)
MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_FAULTS = 50

# Python does not convert numbers of thousands of digits, and no setting has more than these.
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})")
FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
FLOAT_AS_TYPED = re.compile(rf"{FLOAT.pattern}|[-+]?[0-9]+[eE][-+]?[0-9]+")


class Place(NamedTuple):
    """Where something was written; `order` is the line, and beyond every line for the command line."""

    order: int
    text: str


class Fault(NamedTuple):
    place: Place
    message: str


@dataclass(frozen=True)
class Written:
    """A value and where it was written; a mapping is a dict of Written, a sequence a tuple of bare values."""

    value: Any
    place: Place

    def bare(self) -> Any:
        """The value without its places, as pydantic takes it."""
        if isinstance(self.value, dict):
            return {key: inner.bare() for key, inner in self.value.items()}
        return self.value


def load_config(path: str | Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings of a file and of `key=value` overrides.

    The `config.yaml` of a run, next to its `run.lock`, may have keys and values of an earlier version.

    Args:
        environ: environment variables; default: those of the process.

    Raises:
        ConfigError: names every fault of both, one a line.
    """
    path = Path(path)
    is_of_run = path.name == "config.yaml" and path.with_name("run.lock").is_file()
    return _load(path, overrides, environ, is_of_run)


def load_run_config(
    path: str | Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Config:
    """Read settings that this version or an earlier one has written; otherwise as `load_config`.

    Old keys and values are translated in the file, and refused in `overrides`.
    """
    return _load(Path(path), overrides, environ, is_of_run=True)


def _load(path: Path, overrides: Sequence[str], environ: Mapping[str, str] | None, is_of_run: bool) -> Config:
    file = Place(0, str(path))
    root, faults = _read_file(path, file)
    if is_of_run:
        _translate(root)
    faults += _old_settings(root)
    faults += _apply_overrides(root, overrides)
    _fill_in(root, file, os.environ if environ is None else environ)
    faults += islice(_section_faults((Config,), "", root), MAX_FAULTS + 1)
    faults += _expand_homes(root)
    _refuse(faults)
    config = Config.model_validate(root.bare())
    _refuse([Fault(_at(root, key).place, f"{key} {message}") for key, message in find_contradictions(config)])
    return config


def load_section(path: str | Path, kind: type[_S]) -> _S:
    """What a file of its own says in the form of `kind`, or a ConfigError that names every fault, one a line."""
    root, faults = _read_file(Path(path), Place(0, str(path)))
    _refuse(faults + list(islice(_section_faults((kind,), "", root), MAX_FAULTS + 1)))
    return kind.model_validate(root.bare())


def to_yaml(config: Config) -> str:
    """The resolved settings as YAML that loads as an equal Config."""
    return yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, width=120)


def _refuse(faults: list[Fault]) -> None:
    if faults:
        ordered = sorted(faults, key=lambda fault: fault.place.order)
        lines = [f"{fault.place.text}: {fault.message}" for fault in ordered]
        more = ["and more of this kind"] if len(lines) > MAX_FAULTS else []
        raise ConfigError("\n".join(lines[:MAX_FAULTS] + more))


# From text to values


class RefusedYAMLError(yaml.MarkedYAMLError):
    """YAML that is well formed and that settings have no use for."""


class _Loader(yaml.SafeLoader):
    """Composes nodes of plain YAML only: a value stands where it is used, and no deeper than anyone can follow."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refused("anchors and aliases (&, *) are not taken; write the value where it is used", event)
        if event.tag is not None:
            raise _refused("tags (!) are not taken", event)
        if self.depth == MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH} levels", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _refused(problem: str, event: Any) -> RefusedYAMLError:
    return RefusedYAMLError(problem=problem, problem_mark=event.start_mark)


def _compose(text: str) -> yaml.Node | None:
    """The only document of `text`, or None where there is none."""
    loader = _Loader(text)
    root = loader.get_node() if loader.check_node() else None
    if loader.check_node():
        raise _refused("several documents in one file; a run has one", loader.peek_event())  # type: ignore[no-untyped-call]
    return root


def _scalar(text: str, floats: re.Pattern[str]) -> Any:
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    if floats.fullmatch(text) and isfinite(float(text)):
        return float(text)
    return text


@dataclass(frozen=True)
class _Source:
    """One text of settings, the file or an override, with its rules and with what is wrong in its form."""

    place: Callable[[yaml.Node], Place]
    floats: re.Pattern[str]
    faults: list[Fault] = field(default_factory=list)

    def read(self, node: yaml.Node, prefix: str = "") -> Written:
        if isinstance(node, yaml.MappingNode):
            return Written(self._mapping(node, prefix), self.place(node))
        if isinstance(node, yaml.SequenceNode):
            return Written(tuple(self.read(item, prefix).bare() for item in node.value), self.place(node))
        if "\0" in node.value:
            self.faults.append(Fault(self.place(node), "the character NUL cannot be in a setting"))
        is_plain = isinstance(node, yaml.ScalarNode) and not node.style
        return Written(_scalar(node.value, self.floats) if is_plain else node.value, self.place(node))

    def _mapping(self, node: yaml.MappingNode, prefix: str) -> dict[str, Written]:
        entries: dict[str, Written] = {}
        for key_node, value_node in node.value:
            key, place = self.read(key_node).bare(), self.place(key_node)
            if not isinstance(key, str) or key != short(key):
                self.faults.append(Fault(place, f"the key {shown(key)} is not the name of a setting"))
            elif key in entries:
                message = f"{prefix}{key} is set twice, first at {entries[key].place.text}"
                self.faults.append(Fault(place, message))
            else:
                entries[key] = Written(self.read(value_node, f"{prefix}{key}.").value, place)
        return entries


def _read_file(path: Path, file: Place) -> tuple[Written, list[Fault]]:
    def line_of(node: yaml.Node) -> Place:
        line = node.start_mark.line + 1
        return Place(line, f"{path}:{line}")

    node = _compose_file(path, _read_text(path))
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: holds no settings at its top level, but a list or a single value")
    source = _Source(line_of, FLOAT)
    return Written(source.read(node).value, file), source.faults


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES // 10**6} MB; that is not a file of settings")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text in UTF-8") from None


def _compose_file(path: Path, text: str) -> yaml.Node:
    try:
        node = _compose(text)
    except RefusedYAMLError as error:
        raise ConfigError(f"{path}:{_line_and_column(error)[0]}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        line, column = _line_and_column(error)
        raise ConfigError(f"{path}:{line}: is not YAML, in column {column}: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{path}:{line}: is not text, but holds the control character {error.character:#04x}"
        ) from None
    except (ValueError, OverflowError) as error:  # PyYAML lets them out of "\UFFFFFFFF" and of endless version numbers
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    if node is None or (isinstance(node, yaml.ScalarNode) and _scalar(node.value, FLOAT) is None):
        raise ConfigError(f"{path}: is empty; the least it has to hold is data.name and model.name")
    return node


def _line_and_column(error: yaml.MarkedYAMLError) -> tuple[int, int]:
    mark = error.problem_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


# The command line


def _apply_overrides(root: Written, overrides: Sequence[str]) -> Iterator[Fault]:
    seen: list[str] = []
    for number, override in enumerate(overrides):
        place = Place(MAX_BYTES + 1 + number, f"command line: {short(override)}")
        key, equals, text = override.partition("=")
        message = _override_message(key, text, seen) if key and equals else "is not of the form key=value"
        if message:
            yield Fault(place, message)
        elif old := find_old_value(key, (written := _typed(key, text, place)).value):
            yield Fault(place, old_value(old))
        else:
            _put(root, key, written)
            seen.append(key)


def _override_message(key: str, text: str, seen: list[str]) -> str | None:
    if key in RENAMED_KEYS:
        return renamed_key(key, _scalar(text, FLOAT_AS_TYPED))
    rivals = [other for other in seen if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")]
    if key in rivals:
        return f"{key} is set twice on the command line"
    if rivals:
        return f"{short(key)} and {rivals[0]} are both on the command line, and one is a part of the other"
    if key in Config.model_fields:
        return f"{key} is a section; set one of its keys: {', '.join(_siblings(f'{key}.'))}"
    return None if _holders(key) else unknown_key(key, _siblings(key[: key.rfind(".") + 1]))


def _typed(key: str, text: str, place: Place) -> Written:
    """What `text` means to the setting: the text itself where that is allowed, because a shell leaves no quotes."""
    name = key.rpartition(".")[2]
    if any(_fits(section, name, text) for section in _holders(key)):
        return Written(text, place)
    source = _Source(lambda _: place, FLOAT_AS_TYPED)
    try:
        node = _compose(text)
    except (yaml.YAMLError, ValueError, OverflowError):
        return Written(text, place)
    written = source.read(node) if node else Written(None, place)
    return Written(text, place) if source.faults else written


def _put(root: Written, key: str, written: Written) -> None:
    *heads, name = key.split(".")
    entries = root.value
    for head in heads:
        if head not in entries or not isinstance(entries[head].value, dict):
            entries[head] = Written({}, written.place)
        entries = entries[head].value
    entries[name] = written


# Settings of earlier versions


def _translate(root: Written) -> None:
    """Replace the keys and values of an earlier version; an old key stays where the new one is written too."""
    for old_key, new_key in RENAMED_KEYS.items():
        entries, old_name, new_name = _entries(root, old_key), last_part(old_key), last_part(new_key)
        if old_name in entries and new_name not in entries:
            entries[new_name] = entries.pop(old_name)
    for old in OLD_VALUES:
        entries, name = _entries(root, old.key), last_part(old.key)
        if name in entries and entries[name].value == old.value:
            entries[name] = Written(old.replacement, entries[name].place)


def _old_settings(root: Written) -> Iterator[Fault]:
    """Faults for keys and values of an earlier version, which are removed so that no other fault names them."""
    for key, new_key in RENAMED_KEYS.items():
        entries = _entries(root, key)
        if entry := entries.pop(last_part(key), None):
            rival = entries[last_part(new_key)].place.text if last_part(new_key) in entries else None
            yield Fault(entry.place, renamed_key(key, entry.bare(), rival))
    for old in OLD_VALUES:
        entries, name = _entries(root, old.key), last_part(old.key)
        if name in entries and entries[name].value == old.value:
            yield Fault(entries.pop(name).place, old_value(old))


def _entries(root: Written, key: str) -> dict[str, Written]:
    """What is written in the section of `key`."""
    entries = _at(root, key.rpartition(".")[0]).value
    return entries if isinstance(entries, dict) else {}


# Defaults that depend on the surroundings


def _fill_in(root: Written, file: Place, environ: Mapping[str, str]) -> None:
    for section in (*Config.model_fields, "data.augment"):
        _fill(root, section, {}, file)
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(file.text).stem).lstrip(".-")
    _fill(root, "run.name", stem or "run", file)
    _fill(root, "run.dir", f"runs/{_at(root, 'run.name').bare()}", file)
    _fill(root, "data.root", environ.get("DIST_TRAIN_DATA") or "data", Place(0, "$DIST_TRAIN_DATA"))
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    _fill(root, "data.cache", f"{cache}/dist-train", Place(0, "$XDG_CACHE_HOME"))
    _fill(root, "optim.name", "sgd", file)
    if _at(root, "train.max_steps").value is None:
        _fill(root, "train.epochs", 10, file)


def _fill(root: Written, key: str, value: Any, place: Place) -> None:
    """Set `key` where it is not written, or null; a section that is not a mapping is left for the checks to refuse."""
    head, _, name = key.rpartition(".")
    entries = _at(root, head).value if head else root.value
    if isinstance(entries, dict) and (name not in entries or entries[name].value is None):
        entries[name] = Written(value, entries[name].place if name in entries else place)


def _at(root: Written, key: str) -> Written:
    """What is written under `key`: null, at the nearest place above, where nothing is."""
    written = root
    for part in key.split("."):
        entries = written.value if isinstance(written.value, dict) else {}
        written = entries.get(part, Written(None, written.place))
    return written


def _expand_homes(root: Written) -> Iterator[Fault]:
    for key in ("run.dir", "data.root", "data.cache"):
        value, place = _at(root, key).value, _at(root, key).place
        if isinstance(value, str) and value.startswith("~"):
            try:
                _put(root, key, Written(str(Path(value).expanduser()), place))
            except (RuntimeError, ValueError):
                yield Fault(place, f"{key} is {shown(value)}; nobody knows the home directory it starts with")


# Checks


def _section_faults(classes: tuple[type[Section], ...], prefix: str, written: Written) -> Iterator[Fault]:
    chosen = _chosen(classes, written)
    if chosen is None:
        name = _at(written, "name")
        yield Fault(name.place, wrong_name(f"{prefix}name", name.value, classes))
    section = chosen or common_base(classes)
    for key, entry in written.value.items():
        if key == "name" and chosen is None:
            continue
        elif key in section.model_fields:
            yield from _setting_faults(section, prefix, key, entry)
        elif not any(key in other.model_fields for other in classes):
            siblings = [f"{prefix}{name}" for name in section.model_fields]
            yield Fault(entry.place, unknown_key(f"{prefix}{key}", siblings))
        elif chosen:
            yield Fault(entry.place, foreign_key(prefix, key, written.value["name"].value, own_keys(chosen, classes)))
    for key, info in section.model_fields.items():
        if chosen and info.is_required() and key not in written.value:
            yield Fault(written.place, f"{prefix}{key} is missing; {demand(info)}")


def _setting_faults(section: type[Section], prefix: str, name: str, entry: Written) -> Iterator[Fault]:
    info = section.model_fields[name]
    inner = section_classes(info.annotation)
    if inner and isinstance(entry.value, dict):
        yield from _section_faults(inner, f"{prefix}{name}.", entry)
    elif not _fits(section, name, value := entry.bare()):
        mend = _mend(section, name, value)
        what = f"the text {shown(value)}" if mend and isinstance(value, str) else shown(value)
        wanted = mend or demand(info) + did_you_mean(value, choices_of(info.annotation))
        yield Fault(entry.place, f"{prefix}{name} is {what}; {wanted}")


def _fits(section: type[Section], name: str, value: Any) -> bool:
    """Whether pydantic takes `value`; faults of other settings, such as those that are missing here, do not count."""
    try:
        section.model_validate({name: value})
    except ValidationError as error:
        return all(fault["loc"][0] != name for fault in error.errors(include_url=False, include_input=False))
    return True


def _mend(section: type[Section], name: str, value: Any) -> str | None:
    """What to do about text that was meant as a number, or the reverse, if the value is fine otherwise."""
    parts = value if isinstance(value, tuple) else (value,)
    numbers = tuple(_scalar(part, FLOAT_AS_TYPED) if isinstance(part, str) else part for part in parts)
    if numbers != parts and _fits(section, name, numbers if isinstance(value, tuple) else numbers[0]):
        text = next(part for part, number in zip(parts, numbers, strict=True) if part != number)
        if _scalar(text, FLOAT) != text:
            return "remove the quotes"
        return f"YAML takes a number with an exponent for one only when it has a point: write {pointed(text)}"
    if isinstance(value, int | float) and _fits(section, name, str(value)):
        return "it must be text: put it in quotes"
    return None


def _chosen(classes: tuple[type[Section], ...], written: Written) -> type[Section] | None:
    """The class that the section's `name` asks for; the only one, where there is no choice."""
    if len(classes) == 1:
        return classes[0]
    name = _at(written, "name").value
    return by_name(classes).get(name) if isinstance(name, str) else None


def _siblings(prefix: str) -> list[str]:
    """The keys of one section, of all its classes; those of the sections themselves at the top."""
    if not prefix:
        return list(Config.model_fields)
    return [key for key in list_keys((Config,)) if key.startswith(prefix) and "." not in key[len(prefix) :]]


def _holders(key: str) -> list[type[Section]]:
    """The classes that hold the setting of this dotted key; none, if it is unknown."""
    *heads, name = key.split(".")
    classes: tuple[type[Section], ...] = (Config,)
    for head in heads:
        fields = [section.model_fields[head] for section in classes if head in section.model_fields]
        classes = tuple(inner for info in fields for inner in section_classes(info.annotation))
    return [section for section in classes if name in section.model_fields]


# What is printed


class _Dumper(yaml.SafeDumper):
    """Quotes what `_scalar` or any other reader of YAML would not take for text; lists stand on one line."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{FLOAT.pattern})$"), None)
_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
