"""Options of a settings file's own, such as `--batch-size 64`: each is an alias of a setting.

    aliases:
      --batch-size: data.global_batch        # --batch-size 64 is data.global_batch=64
      --no-cuda: distributed.backend=gloo    # takes no value

Between the parser of a command and `load_config`, an alias with its value is one word among the overrides:
`--batch-size=64`. So a message names both, the alias and the setting.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dist_train.errors import ConfigError
from dist_train.recipes import find_config
from dist_train.system.escape import escape
from dist_train.system.exit import Parser
from dist_train.system.read_file import is_file

if TYPE_CHECKING:
    from dist_train.settings.loading.strict_yaml import Fault, LocatedValue, SourceLocation

SECTION = "aliases"
DOCUMENTATION = """\
Options of this file's own on the command line. Each key is an option such as `--batch-size`; its value is the setting
that the option sets, as in `data.global_batch`, or a setting with its value, as in `distributed.backend=gloo`, for an
option without one. The `--help` of a command lists those of the file that is given with it. An option that the command
has itself keeps its meaning."""
RESERVED = ("--help", "--version", "--settings", "--print-config", "--print-groups", "--nproc", "--max-restarts")
"""Options of the commands that train."""
_GIVEN = "given_aliases"
_FLAG = re.compile(r"--[a-zA-Z0-9][a-zA-Z0-9_-]*")


class Alias(NamedTuple):
    """An option and the setting that it sets."""

    flag: str
    setting: str
    value: str | None
    """The value that it sets; None: the value given with the option."""
    location: "SourceLocation"


def take_aliases(root: "LocatedValue") -> tuple[dict[str, Alias], list["Fault"]]:
    """Remove the section `aliases` from the content of a file; return the aliases and their faults."""
    from dist_train.settings.loading.strict_yaml import Fault

    if (section := root.value.pop(SECTION, None)) is None or section.value is None:
        return {}, []
    if not isinstance(section.value, dict):
        return {}, [Fault(section.location, f"{SECTION} must be a mapping of options, such as --lr: optim.lr")]
    aliases, faults = {}, []
    for flag, entry in section.value.items():
        if not _FLAG.fullmatch(flag):
            faults.append(Fault(entry.location, f"{SECTION}: {flag} is no option; write it like --batch-size"))
        elif flag in RESERVED:
            faults.append(Fault(entry.location, f"{SECTION}: {flag} is an option of dist-train itself; rename it"))
        elif not isinstance(entry.value, str) or not entry.value:
            wanted = "a setting, such as optim.lr, or one with its value, such as distributed.backend=gloo"
            faults.append(Fault(entry.location, f"{SECTION}: {flag} must stand for {wanted}"))
        else:
            setting, equals, value = entry.value.partition("=")
            aliases[flag] = Alias(flag, setting, value if equals else None, entry.location)
    return aliases, faults


def expand(word: str, aliases: Mapping[str, Alias]) -> str:
    """Return `key=value` for a word such as `--batch-size=64`; raises ValueError with what is wrong with it."""
    flag, equals, text = word.partition("=")
    alias = aliases.get(flag)
    if alias is None:
        listed = f", and there are the options {', '.join(aliases)}" if aliases else ""
        raise ValueError(f"is not of the form key=value{listed}")
    if alias.value is not None and equals:
        raise ValueError(f"takes no value: {flag} alone sets {alias.setting}={alias.value}")
    if alias.value is None and not equals:
        raise ValueError(f"needs a value, which sets {alias.setting}")
    return f"{alias.setting}={text if alias.value is None else alias.value}"


def expand_all(path: str | Path, overrides: Sequence[str]) -> list[str]:
    """Return overrides that `load_config` has accepted, each as `key=value`."""
    aliases = _read(find_config(path)) if any(each.startswith("--") for each in overrides) else {}
    return [expand(each, aliases) if each.startswith("--") else each for each in overrides]


def parse_with_aliases(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments of a command with CONFIG and `key=value`, among which are the aliases of CONFIG.

    The file is read only if an option is not one of the command's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    if any(flag in ("-h", "--help") or not parser.has_option(flag) for flag in flags):
        word = next(filter(_is_file, words), None)
        if word is not None:
            _add_options(parser, word)
        parser.advice = "a setting is given as key=value, such as optim.lr=0.1"
    options = parser.parse_intermixed_args(words)
    options.overrides = [*options.overrides, *getattr(options, _GIVEN, [])]
    return options


class _Collect(argparse.Action):
    """Collects an alias and its value as one word."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:  # noqa: ARG002
        (flag,) = self.option_strings
        word = f"{flag}={values}" if isinstance(values, str) else flag
        setattr(namespace, _GIVEN, [*getattr(namespace, _GIVEN, []), word])


def _add_options(parser: Parser, config: str) -> None:
    group = parser.add_argument_group(f"options of {escape(config)}, each an alias of a setting")
    for alias in _read(find_config(config)).values():
        if not parser.has_option(alias.flag):
            takes_value = alias.value is None
            stands_for = alias.setting if takes_value else f"{alias.setting}={alias.value}"
            group.add_argument(
                alias.flag,
                action=_Collect,
                nargs="?" if takes_value else 0,
                metavar="VALUE",
                default=argparse.SUPPRESS,
                help=escape(stands_for, 80).replace("%", "%%"),
            )


def _is_file(word: str) -> bool:
    """Whether a word of a command line names a settings file that is there: the first that does is CONFIG."""
    if word.startswith("-") or "=" in word:
        return False
    try:
        return is_file(find_config(word))
    except ConfigError:
        return False


def _read(path: Path) -> dict[str, Alias]:
    """Read the aliases of a file; {} if it can't be read, which `load_config` reports."""
    from dist_train.settings.loading.strict_yaml import read_file

    try:
        return take_aliases(read_file(path)[0])[0]
    except ConfigError:
        return {}
