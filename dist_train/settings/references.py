"""The references in settings: find their files, check the arguments for what they name, and lead them to copies."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dist_train.own_code.reference import find_fault, parse_reference
from dist_train.settings.schema import Config
from dist_train.settings.strict_yaml import MAX_BYTES, Fault, LocatedValue


class _Place(NamedTuple):
    """A setting that may be a reference."""

    key: str
    given: tuple[str, ...] = ()
    """Arguments that the program gives by name where there is such a parameter."""
    positional: tuple[int, int] = (0, 0)
    """Arguments that the program gives by position to a function, and to a class."""
    is_called: bool = True
    """Whether what it names is called with its `args`."""


_PLACES = (
    _Place("model.name"),
    _Place("data.name", given=("split",)),
    _Place("data.collate", is_called=False),
    _Place("data.sampling", is_called=False),
    _Place("data.augment", is_called=False),
    _Place("task", is_called=False),
    _Place("loss.name", positional=(2, 0)),
    _Place("metrics", is_called=False),
    _Place("optim.name", given=("lr",), positional=(1, 1)),
    _Place("optim.schedule", is_called=False),
    _Place("optim.groups.schedule", is_called=False),
    _Place("callbacks"),
)


def resolve_references(root: LocatedValue, folder: Path) -> Iterator[Fault]:
    """Make the files of references relative to the working directory, and yield what is wrong with them.

    Args:
        folder: of the settings file; a reference on the command line is relative to the working directory.
    """
    for place in _PLACES:
        *head, name = place.key.split(".")
        for above in _find_mappings(root, head):
            if (entry := above.get(name)) is None:
                continue
            arguments = above.get("args") if head and place.is_called else None
            plain = arguments.to_plain() if arguments else {}
            is_in_file = entry.location.order <= MAX_BYTES
            value, faults = _resolve(entry.value, place, plain, folder if is_in_file else Path())
            above[name] = LocatedValue(value, entry.location)
            yield from (Fault(entry.location, f"{place.key} is {text!r}; {fault}") for text, fault in faults)


def _find_mappings(written: LocatedValue, path: Sequence[str]) -> Iterator[dict[str, LocatedValue]]:
    """Yield the mappings that a path of keys leads to; a list on the way may have several."""
    if isinstance(written.value, tuple):
        for item in written.value:
            yield from _find_mappings(item, path)
    elif isinstance(written.value, dict) and not path:
        yield written.value
    elif isinstance(written.value, dict) and path[0] in written.value:
        yield from _find_mappings(written.value[path[0]], path[1:])


def _resolve(value: Any, place: _Place, arguments: dict[str, Any], folder: Path) -> tuple[Any, list[tuple[str, str]]]:
    """Return the value with resolved references, and what is wrong with each."""
    if isinstance(value, tuple):
        found = [_resolve(each, place, {}, folder) for each in value]
        return tuple(each for each, _ in found), [fault for _, faults in found for fault in faults]
    if isinstance(value, LocatedValue):
        inner, faults = _resolve(value.value, place, arguments, folder)
        return LocatedValue(inner, value.location), faults
    reference = parse_reference(value) if isinstance(value, str) else None
    if reference is None:
        return value, []
    if reference.file is not None:
        path = Path(os.path.abspath(folder / reference.file.expanduser()))  # noqa: PTH100 - links stay as they are
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        resolved = f"{shown}:{reference.name}"
    else:
        resolved = value
    fault = find_fault(resolved, arguments if place.is_called else None, place.given, place.positional)
    return resolved, [(value, fault)] if fault else []


def list_references(config: Config) -> list[str]:
    """Return the references in settings, each once."""
    found: dict[str, None] = {}

    def note(text: str) -> str:
        found[text] = None
        return text

    change_references(config, note)
    return list(found)


def change_references(config: Config, change: Callable[[str], str]) -> Config:
    """Return settings in which each reference is the result of `change` for it."""
    settings: Any = config.model_dump()
    for place in _PLACES:
        settings = _change(settings, place.key.split("."), change)
    return Config.model_validate(settings)


def _change(value: Any, path: Sequence[str], change: Callable[[str], str]) -> Any:
    """Apply `change` to the references that a path of keys leads to, or to the `name` of a section there."""
    if isinstance(value, tuple):
        return tuple(_change(each, path, change) for each in value)
    if isinstance(value, dict):
        key, *rest = path or ["name"]
        return {**value, key: _change(value[key], rest, change)} if key in value else value
    return change(value) if isinstance(value, str) and not path and parse_reference(value) else value
