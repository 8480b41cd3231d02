"""Read a small and unambiguous part of YAML: each value with the line on which it is written.

PyYAML's own loader is not used: it keeps the last of a doubled key without a message, and it reads `12:30:00` as 45000,
`010` as 8 and `on` as true. Here a plain scalar is null, true, false, a decimal number, or text.
"""

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dist_train.errors import ConfigError
from dist_train.settings.loading.values import format_value, shorten
from dist_train.system.escape import escape
from dist_train.system.read_file import explain, is_file, read_bytes

MAX_BYTES = 100_000  # PyYAML reads this in a second
MAX_DEPTH, MAX_VALUES = 20, 2000
MAX_PATH = 4096  # characters that are shown

# Python does not convert numbers of thousands of digits, and no setting has more than these.
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})")
FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
FLOAT_AS_TYPED = re.compile(rf"{FLOAT.pattern}|[-+]?[0-9]+[eE][-+]?[0-9]+")
_NUMBERED = ("model.unfreeze.",)
"""Mappings whose keys are numbers; they are kept as text."""


class SourceLocation(NamedTuple):
    """Where a setting is written."""

    order: int
    """The line in the file; above all lines for the command line."""
    text: str
    """The start of a message about it: `a.yaml:3` or `command line: optim.lr=1`."""


class Fault(NamedTuple):
    location: SourceLocation
    message: str


@dataclass(frozen=True)
class LocatedValue:
    """A value and where it is written; a mapping is a dict of these, a sequence a tuple of these."""

    value: Any
    location: SourceLocation

    def to_plain(self) -> Any:
        """Return the value without locations, for pydantic."""
        if isinstance(self.value, dict):
            return {key: inner.to_plain() for key, inner in self.value.items()}
        if isinstance(self.value, tuple):
            return tuple(inner.to_plain() for inner in self.value)
        return self.value


class RefusedYAMLError(yaml.MarkedYAMLError):
    """Well-formed YAML that a settings file must not contain."""


class _Loader(yaml.SafeLoader):
    """Composes nodes of plain YAML only, without anchors and tags, down to MAX_DEPTH and up to MAX_VALUES."""

    depth = count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refused("anchors and aliases (&, *) are not allowed; write the value where it is used", event)
        if event.tag is not None:
            raise _refused("tags (!) are not allowed", event)
        if self.depth == MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH} levels", event)
        self.count += 1
        if self.count > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _refused(problem: str, event: Any) -> RefusedYAMLError:
    return RefusedYAMLError(problem=problem, problem_mark=event.start_mark)


def _parse_document(text: str) -> yaml.Node | None:
    """Return the only document of `text`, None if there is none."""
    loader = _Loader(text)
    root = loader.get_node() if loader.check_node() else None
    if loader.check_node():
        raise _refused("several documents in one file; only one is allowed", loader.peek_event())  # type: ignore[no-untyped-call]
    return root


def parse_scalar(text: str, floats: re.Pattern[str]) -> Any:
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
class _NodeReader:
    """Converts the nodes of a file or of an override, and collects faults in their form."""

    locate: Callable[[yaml.Node], SourceLocation]
    floats: re.Pattern[str]
    faults: list[Fault] = field(default_factory=list)

    def read(self, node: yaml.Node, prefix: str = "") -> LocatedValue:
        if isinstance(node, yaml.MappingNode):
            return LocatedValue(self._mapping(node, prefix), self.locate(node))
        if isinstance(node, yaml.SequenceNode):
            return LocatedValue(tuple(self.read(item, prefix) for item in node.value), self.locate(node))
        if "\0" in node.value:
            self.faults.append(Fault(self.locate(node), "a setting cannot contain the character NUL"))
        is_plain = isinstance(node, yaml.ScalarNode) and not node.style
        return LocatedValue(parse_scalar(node.value, self.floats) if is_plain else node.value, self.locate(node))

    def _mapping(self, node: yaml.MappingNode, prefix: str) -> dict[str, LocatedValue]:
        entries: dict[str, LocatedValue] = {}
        for key_node, value_node in node.value:
            key, location = self.read(key_node).to_plain(), self.locate(key_node)
            if type(key) is int and prefix in _NUMBERED:
                key = str(key)
            if not isinstance(key, str) or key != shorten(key):
                self.faults.append(Fault(location, f"the key {format_value(key)} is not the name of a setting"))
            elif key in entries:
                message = f"{prefix}{key} is set twice, first at {entries[key].location.text}"
                self.faults.append(Fault(location, message))
            else:
                entries[key] = LocatedValue(self.read(value_node, f"{prefix}{key}.").value, location)
        return entries


def get_written(root: LocatedValue, key: str) -> LocatedValue:
    """Return what is written under `key`; if nothing is, null with the location of the section above it."""
    written = root
    for part in key.split("."):
        entries = written.value if isinstance(written.value, dict) else {}
        written = entries.get(part, LocatedValue(None, written.location))
    return written


def set_written(root: LocatedValue, key: str, written: LocatedValue) -> None:
    """Write a value under `key`, and the sections above it."""
    *heads, name = key.split(".")
    entries = root.value
    for head in heads:
        if head not in entries or not isinstance(entries[head].value, dict):
            entries[head] = LocatedValue({}, written.location)
        entries = entries[head].value
    entries[name] = written


def read_file(path: Path) -> tuple[LocatedValue, list[Fault]]:
    """Read a file whose top level is a mapping.

    Returns:
        Its content, and faults that do not prevent reading the rest, such as doubled keys.

    Raises:
        ConfigError: the file cannot be read, or is not YAML of this kind.
    """

    def line_of(node: yaml.Node) -> SourceLocation:
        line = node.start_mark.line + 1
        return SourceLocation(line, f"{shown}:{line}")

    shown = escape(path, MAX_PATH)
    node = _parse_file(shown, _read_text(path))
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{shown}: the top level must be a mapping of sections, not a list or a single value")
    reader = _NodeReader(line_of, FLOAT)
    return LocatedValue(reader.read(node).value, SourceLocation(0, shown)), reader.faults


def _read_text(path: Path) -> str:
    shown = escape(path, MAX_PATH)
    try:
        return read_bytes(path, MAX_BYTES).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{shown}: is not text in UTF-8") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            limit = f"{MAX_BYTES // 1000} kB"
            raise ConfigError(f"{shown}: is larger than {limit}, too large for a settings file") from None
        raise ConfigError(f"{shown}: cannot be read: {explain(error)}{_suggest_config(path)}") from None


def _suggest_config(path: Path) -> str:
    """Return the end of a message that suggests the `config.yaml` of a run instead of its directory."""
    config = path / "config.yaml"
    return f" (did you mean {escape(config, MAX_PATH)}?)" if is_file(config) else ""


def _parse_file(path: str, text: str) -> yaml.Node:
    try:
        node = _parse_document(text)
    except RefusedYAMLError as error:
        raise ConfigError(f"{path}:{_line_and_column(error)[0]}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        line, column = _line_and_column(error)
        raise ConfigError(f"{path}:{line}: is not YAML, in column {column}: {escape(error.problem)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{path}:{line}: is not text: it contains the control character {error.character:#04x}"
        ) from None
    except (ValueError, OverflowError) as error:  # PyYAML raises these for "\UFFFFFFFF" and very long version numbers
        raise ConfigError(f"{path}: is not YAML: {escape(error)}") from None
    if node is None or (isinstance(node, yaml.ScalarNode) and parse_scalar(node.value, FLOAT) is None):
        raise ConfigError(f"{path}: is empty")
    return node


def _line_and_column(error: yaml.MarkedYAMLError) -> tuple[int, int]:
    mark = error.problem_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def parse_override(text: str, location: SourceLocation, key: str = "") -> LocatedValue:
    """Read the value of an override of `key` as YAML; if it is not YAML, as text."""
    reader = _NodeReader(lambda _: location, FLOAT_AS_TYPED)
    try:
        node = _parse_document(text)
    except (yaml.YAMLError, ValueError, OverflowError):
        return LocatedValue(text, location)
    value = reader.read(node, f"{key}.") if node else LocatedValue(None, location)
    return LocatedValue(text, location) if reader.faults else value
