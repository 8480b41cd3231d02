"""The references in settings: find their files, check the arguments for what they name, and replace them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dist_train.own_code.reference import Reference, find_fault, parse_reference
from dist_train.settings.loading.paths import expand_path
from dist_train.settings.loading.strict_yaml import MAX_BYTES, Fault, LocatedValue, SourceLocation
from dist_train.settings.loading.values import format_value
from dist_train.settings.schema import Config


class _ReferenceSetting(NamedTuple):
    """A setting that may be a reference."""

    key: str
    given: tuple[str, ...] = ()
    """Arguments that the program gives by name where there is such a parameter."""
    positional: tuple[int | None, int | None] = (0, 0)
    """Arguments that the program gives by position to a function, and to a class; None: it may give other numbers."""
    has_arguments: bool = False
    """Whether the settings give arguments beside it, as `args`."""


_REFERENCE_SETTINGS = (
    _ReferenceSetting("model.name", has_arguments=True),
    _ReferenceSetting("model.weights"),
    _ReferenceSetting("data.name", given=("split",), has_arguments=True),
    _ReferenceSetting("data.collate", positional=(1, 1)),
    _ReferenceSetting("data.sampling", positional=(3, 3)),
    _ReferenceSetting("data.augment.name", positional=(None, 0), has_arguments=True),
    _ReferenceSetting("task", positional=(None, None)),
    _ReferenceSetting("loss.name", positional=(2, 0), has_arguments=True),
    _ReferenceSetting("metrics", positional=(2, 0)),
    _ReferenceSetting("optim.name", given=("lr",), positional=(1, 1), has_arguments=True),
    _ReferenceSetting("optim.schedule", positional=(2, 2)),
    _ReferenceSetting("optim.groups.schedule", positional=(2, 2)),
    _ReferenceSetting("callbacks.name", has_arguments=True),
)


def resolve_references(root: LocatedValue, folder: Path, environ: Mapping[str, str]) -> Iterator[Fault]:
    """Make the files of references relative to the working directory, and yield what is wrong with them.

    Args:
        folder: of the settings file; a reference on the command line is relative to the working directory.
        environ: for `~` and `$NAME` in the path of a file.
    """
    for setting in _REFERENCE_SETTINGS:
        *head, name = setting.key.split(".")
        for above in _find_mappings(root, head):
            if (entry := above.get(name)) is None:
                continue
            arguments = above.get("args") if setting.has_arguments else None
            resolver = _Resolver(setting, arguments or LocatedValue({}, entry.location), folder, environ)
            above[name] = resolver.resolve(entry)
            yield from resolver.faults


def _find_mappings(written: LocatedValue, path: Sequence[str]) -> Iterator[dict[str, LocatedValue]]:
    """Yield the mappings that a path of keys leads to; a list on the way may have several."""
    if isinstance(written.value, tuple):
        for item in written.value:
            yield from _find_mappings(item, path)
    elif isinstance(written.value, dict) and not path:
        yield written.value
    elif isinstance(written.value, dict) and path[0] in written.value:
        yield from _find_mappings(written.value[path[0]], path[1:])


@dataclass
class _Resolver:
    """Resolves the references of one setting."""

    setting: _ReferenceSetting
    arguments: LocatedValue
    folder: Path
    environ: Mapping[str, str]
    faults: list[Fault] = field(default_factory=list)

    def resolve(self, entry: LocatedValue) -> LocatedValue:
        """Return the value with resolved references, and record what is wrong with each."""
        value = entry.value
        if isinstance(value, tuple):
            return LocatedValue(tuple(self.resolve(each) for each in value), entry.location)
        reference = parse_reference(value) if isinstance(value, str) else None
        if reference is None:
            return entry
        try:
            resolved = value if reference.file is None else self._find(reference, entry.location)
        except ValueError as error:
            self._record_fault(entry, str(error))
            return entry
        arguments = self.arguments.to_plain() if self.setting.has_arguments else None
        fault = find_fault(resolved, arguments, self.setting.given, self.setting.positional)
        if fault is not None and fault.argument in self.arguments.value:
            written = self.arguments.value[fault.argument]
            section = self.setting.key.rpartition(".")[0]
            self.faults.append(Fault(written.location, f"{section}.args.{fault.argument}: {fault.text}"))
        elif fault is not None:
            self._record_fault(entry, fault.text)
        return LocatedValue(resolved, entry.location)

    def _find(self, reference: Reference, location: SourceLocation) -> str:
        """Return the reference with the path of its file from the working directory; raises ValueError."""
        folder = self.folder if location.order <= MAX_BYTES else Path()
        # A link keeps its name: beside it are other modules than beside its target.
        path = Path(os.path.abspath(folder / expand_path(str(reference.file), self.environ)))  # noqa: PTH100
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"{shown}:{reference.name}"

    def _record_fault(self, entry: LocatedValue, fault: str) -> None:
        self.faults.append(Fault(entry.location, f"{self.setting.key} is {format_value(entry.value)}; {fault}"))


def list_references(config: Config) -> list[str]:
    """Return the references in settings, each once."""
    found: dict[str, None] = {}

    def collect(text: str) -> str:
        found[text] = None
        return text

    change_references(config, collect)
    return list(found)


def change_references(config: Config, change: Callable[[str], str]) -> Config:
    """Return settings in which each reference is the result of `change` for it."""
    settings: Any = config.model_dump()
    for setting in _REFERENCE_SETTINGS:
        settings = _change(settings, setting.key.split("."), change)
    return Config.model_validate(settings)


def _change(value: Any, path: Sequence[str], change: Callable[[str], str]) -> Any:
    """Apply `change` to the references that a path of keys leads to, or to the `name` of a section there."""
    if isinstance(value, tuple):
        return tuple(_change(each, path, change) for each in value)
    if isinstance(value, dict):
        key, *rest = path or ["name"]
        return {**value, key: _change(value[key], rest, change)} if key in value else value
    return change(value) if isinstance(value, str) and not path and parse_reference(value) else value
