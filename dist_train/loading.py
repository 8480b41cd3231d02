"""A file of settings and `key=value` from the command line, read strictly into a Config.

    file ─ compose ─> nodes ─┐
                             ├─> Written: values, each with its place ─> faults, all of them ─> Config
    key=value ───────────────┘

PyYAML's own loader is not used: of a doubled key it silently keeps the last, and it reads `12:30:00` as 45000, `010`
as 8 and `on` as true. Here a plain scalar is null, true, false, a decimal number, or text. Whether a value is allowed
is pydantic's matter alone; the words of a complaint are derived from the same annotation that pydantic checks.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from dist_train.config import Config, Section, contradictions, keys_of, sections
from dist_train.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_FAULTS = 50
MAX_SHOWN = 60

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
    """The settings of `path` under `overrides`, or a ConfigError that names every fault of both, one a line."""
    file = Place(0, str(path))
    root, faults = _read_file(Path(path), file)
    faults += _apply_overrides(root, overrides)
    _fill_in(root, file, os.environ if environ is None else environ)
    faults += islice(_section_faults((Config,), "", root), MAX_FAULTS + 1)
    faults += _expand_homes(root)
    _refuse(faults)
    config = Config.model_validate(root.bare())
    _refuse([Fault(_at(root, key).place, f"{key} {message}") for key, message in contradictions(config)])
    return config


def to_yaml(config: Config) -> str:
    """The resolved settings as YAML that loads as an equal Config."""
    return yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, width=120)


def settings_reference() -> str:
    """Every setting with what it may be, its default and its documentation, as Markdown."""
    lines = ["# Settings", "", "Written by `python -m dist_train --settings`; `null` stands for: not given.", ""]
    for name, info in Config.model_fields.items():
        lines += [*_section_reference(name, sections(info.annotation)), ""]
    return "\n".join(lines)


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
            if not isinstance(key, str) or key != _short(key):
                self.faults.append(Fault(place, f"the key {_shown(key)} is not the name of a setting"))
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
        place = Place(MAX_BYTES + 1 + number, f"command line: {_short(override)}")
        key, equals, text = override.partition("=")
        message = _override_message(key, seen) if key and equals else "is not of the form key=value"
        if message:
            yield Fault(place, message)
        else:
            _put(root, key, _typed(key, text, place))
            seen.append(key)


def _override_message(key: str, seen: list[str]) -> str | None:
    rivals = [other for other in seen if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")]
    if key in rivals:
        return f"{key} is set twice on the command line"
    if rivals:
        return f"{_short(key)} and {rivals[0]} are both on the command line, and one is a part of the other"
    if key in Config.model_fields:
        return f"{key} is a section; set one of its keys: {', '.join(_siblings(f'{key}.'))}"
    return None if _holders(key) else _unknown(key, _siblings(key[: key.rfind(".") + 1]))


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
                yield Fault(place, f"{key} is {_shown(value)}; nobody knows the home directory it starts with")


# Checks


def _section_faults(classes: tuple[type[Section], ...], prefix: str, written: Written) -> Iterator[Fault]:
    chosen = _chosen(classes, written)
    if chosen is None:
        name = written.value.get("name")
        yield Fault(name.place if name else written.place, _name_message(f"{prefix}name", name, classes))
    section = chosen or _base(classes)
    for key, entry in written.value.items():
        if key == "name" and chosen is None:
            continue
        elif key in section.model_fields:
            yield from _setting_faults(section, prefix, key, entry)
        elif not any(key in other.model_fields for other in classes):
            yield Fault(entry.place, _unknown(f"{prefix}{key}", [f"{prefix}{name}" for name in section.model_fields]))
        elif chosen:
            yield Fault(entry.place, _foreign(prefix, key, written.value["name"].value, _own(chosen, classes)))
    for key, info in section.model_fields.items():
        if chosen and info.is_required() and key not in written.value:
            yield Fault(written.place, f"{prefix}{key} is missing; {_demand(info)}")


def _setting_faults(section: type[Section], prefix: str, name: str, entry: Written) -> Iterator[Fault]:
    info = section.model_fields[name]
    inner = sections(info.annotation)
    if inner and isinstance(entry.value, dict):
        yield from _section_faults(inner, f"{prefix}{name}.", entry)
    elif not _fits(section, name, value := entry.bare()):
        mend = _mend(section, name, value)
        what = f"the text {_shown(value)}" if mend and isinstance(value, str) else _shown(value)
        wanted = mend or _demand(info) + _did_you_mean(value, _choices(info.annotation))
        yield Fault(entry.place, f"{prefix}{name} is {what}; {wanted}")


def _fits(section: type[Section], name: str, value: Any) -> bool:
    """Whether pydantic takes `value`; faults of other settings, such as those that are missing here, do not count."""
    try:
        section.model_validate({name: value})
    except ValidationError as error:
        return all(fault["loc"][0] != name for fault in error.errors(include_url=False, include_input=False))
    return True


def _chosen(classes: tuple[type[Section], ...], written: Written) -> type[Section] | None:
    """The class that the section's `name` asks for; the only one, where there is no choice."""
    if len(classes) == 1:
        return classes[0]
    name = _at(written, "name").value
    return _by_name(classes).get(name) if isinstance(name, str) else None


def _by_name(classes: tuple[type[Section], ...]) -> dict[str, type[Section]]:
    return {name: section for section in classes for name in _choices(section.model_fields["name"].annotation)}


def _base(classes: tuple[type[Section], ...]) -> type[Section]:
    """What the classes of a section have in common."""
    return cast(type[Section], classes[0].__base__) if len(classes) > 1 else classes[0]


def _own(section: type[Section], classes: tuple[type[Section], ...]) -> list[str]:
    """The settings that this class of a section has and not all of them."""
    return [name for name in section.model_fields if name not in _base(classes).model_fields]


def _siblings(prefix: str) -> list[str]:
    """The keys of one section, of all its classes; those of the sections themselves at the top."""
    if not prefix:
        return list(Config.model_fields)
    return [key for key in keys_of((Config,)) if key.startswith(prefix) and "." not in key[len(prefix) :]]


def _holders(key: str) -> list[type[Section]]:
    """The classes that hold the setting of this dotted key; none, if it is unknown."""
    *heads, name = key.split(".")
    classes: tuple[type[Section], ...] = (Config,)
    for head in heads:
        fields = [section.model_fields[head] for section in classes if head in section.model_fields]
        classes = tuple(inner for info in fields for inner in sections(info.annotation))
    return [section for section in classes if name in section.model_fields]


# Words


def _unknown(key: str, siblings: Sequence[str]) -> str:
    head, _, last = key.rpartition(".")
    known = keys_of((Config,))
    if key in known:
        return f"{key} cannot be one key in a file; write {last}: under {head}:"
    namesakes = [other for other in known if _last(other) == last][:4]
    close = [other for other in siblings if _last(other) in get_close_matches(last.lower(), map(_last, siblings), 1)]
    guesses = namesakes or close or ([] if siblings else get_close_matches(key, known, 1))
    if guesses:
        return f"{_short(key)} is not a setting. Did you mean {' or '.join(guesses)}?"
    return f"{_short(key)} is not a setting; allowed: {', '.join(map(_last, siblings or Config.model_fields))}"


def _foreign(prefix: str, key: str, name: str, own: list[str]) -> str:
    takes = f"{name} takes: {', '.join(own)}" if own else f"{name} has none of its own"
    return f"{prefix}{key} is not a setting of {prefix}name {name}; {takes}"


def _name_message(key: str, name: Written | None, classes: tuple[type[Section], ...]) -> str:
    choices = list(_by_name(classes))
    value = name.value if name else None
    what = "missing" if value is None else _shown(value)
    return f"{key} is {what}; allowed: {', '.join(_gathered(choices))}{_did_you_mean(value, choices)}"


def _gathered(names: list[str]) -> list[str]:
    """The names, those with a slash as one entry for all of a kind: nobody reads 80."""
    return list(dict.fromkeys(f"{name.partition('/')[0]}/<model>" if "/" in name else name for name in names))


def _did_you_mean(value: Any, choices: Sequence[str]) -> str:
    if not isinstance(value, str):
        return ""
    namesakes = [choice for choice in choices if choice.endswith(f"/{value}")]
    close = namesakes or get_close_matches(value.lower(), choices, 1)
    return f". Did you mean {close[0]}?" if close else ""


def _mend(section: type[Section], name: str, value: Any) -> str | None:
    """What to do about text that was meant as a number, or the reverse, if the value is fine otherwise."""
    parts = value if isinstance(value, tuple) else (value,)
    numbers = tuple(_scalar(part, FLOAT_AS_TYPED) if isinstance(part, str) else part for part in parts)
    if numbers != parts and _fits(section, name, numbers if isinstance(value, tuple) else numbers[0]):
        text = next(part for part, number in zip(parts, numbers, strict=True) if part != number)
        if _scalar(text, FLOAT) != text:
            return "remove the quotes"
        return f"YAML takes a number with an exponent for one only when it has a point: write {_pointed(text)}"
    if isinstance(value, int | float) and _fits(section, name, str(value)):
        return "it must be text: put it in quotes"
    return None


def _demand(info: FieldInfo) -> str:
    words = _words(info.annotation, info.metadata)
    return f"allowed: {words}" if get_origin(info.annotation) is Literal else f"it must be {words}"


def _choices(annotation: Any) -> tuple[str, ...]:
    """The fixed texts that a setting may be."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in _choices(part))


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
LIMITS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What an annotation allows, in plain words: `a number of at least 0 and below 1`."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _words(parts[0], parts[1:])
    if get_origin(annotation) is Literal:
        return ", ".join(parts)
    if get_origin(annotation) in (Union, UnionType):
        return ", or ".join(map(_words, parts))
    if get_origin(annotation) is tuple:
        return _words_of_list(parts, metadata)
    if annotation in KINDS:
        return " ".join([KINDS[annotation], *_limits(metadata)])
    return f"a mapping of {', '.join(annotation.model_fields)}"


def _words_of_list(parts: tuple[Any, ...], metadata: Sequence[Any]) -> str:
    kinds = list(dict.fromkeys(_words(part) for part in parts if part is not Ellipsis))
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


def _shown(value: Any) -> str:
    """A value as YAML would have it, on one line and short."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items()) + "}"
    elif isinstance(value, tuple):
        text = "[" + ", ".join(map(_shown, value)) + "]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = _pointed(repr(value)) if isinstance(value, float) else repr(value)
    return _short(text)


def _short(text: str) -> str:
    """`text` on one line, cut where nobody reads on."""
    line = text if text.isprintable() else repr(text)[1:-1]
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 3]}..."


def _pointed(number: str) -> str:
    """A number whose exponent YAML understands: `3e-4` becomes `3.0e-4`."""
    return number if "." in number else re.sub("[eE]", ".0e", number)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


# What is printed


class _Dumper(yaml.SafeDumper):
    """Quotes what `_scalar` or any other reader of YAML would not take for text; lists stand on one line."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{FLOAT.pattern})$"), None)
_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def _section_reference(name: str, classes: tuple[type[Section], ...]) -> Iterator[str]:
    base = _base(classes)
    yield from (f"## {name}", "", _one_line(base.__doc__), "")
    for key, info in base.model_fields.items():
        names = _gathered(list(_by_name(classes))) if key == "name" and len(classes) > 1 else []
        yield from _setting_reference(f"{name}.{key}", info, ", ".join(names))
    for section in classes if len(classes) > 1 else ():
        yield from _own_reference(name, section)


def _setting_reference(key: str, info: FieldInfo, choices: str = "", where: str = "") -> Iterator[str]:
    words = choices or _words(info.annotation, info.metadata)
    documentation = _one_line(info.description)
    default = " Required." if info.is_required() else f" Default: {_printed(info.default)}."
    if "Default:" in documentation or isinstance(info.default, Section):
        default = ""
    yield f"- `{key}`{where}: {words}.{default} {documentation}".rstrip()
    for section in sections(info.annotation):
        for name, inner in section.model_fields.items():
            yield from _setting_reference(f"{key}.{name}", inner)


def _own_reference(name: str, section: type[Section]) -> Iterator[str]:
    """What a class of a section adds; arguments of optimizers are documented in torch, so a line for all will do."""
    where = f"with `{name}.name` {', '.join(_gathered(list(_by_name((section,)))))}"
    own = {key: info for key, info in section.model_fields.items() if key in section.__annotations__ and key != "name"}
    for key, info in own.items():
        if info.description:
            yield from _setting_reference(f"{name}.{key}", info, where=f" ({where})")
    arguments = [f"`{key}` {_shown(info.default)}" for key, info in own.items() if not info.description]
    if arguments:
        yield f"- {where}, by default: {', '.join(arguments)}"


def _printed(default: Any) -> str:
    return f"`{default if isinstance(default, str) else _shown(default)}`"


def _one_line(documentation: str | None) -> str:
    return " ".join((documentation or "").split())
