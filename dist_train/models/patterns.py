"""Patterns of parameter names, as settings have them: `*` is any text, `?` one character."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from dist_train.system.escape import escape

Names = dict[nn.Parameter, list[str]]


def list_names(network: nn.Module) -> Names:
    """Return the names of each parameter; one that several modules share has several."""
    names: Names = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return names


def find_matches(names: Names, patterns: Collection[str]) -> list[nn.Parameter]:
    """Return the parameters with a name that matches one of the patterns."""
    return [parameter for parameter, each in names.items() if matches(each, patterns)]


def matches(names: Sequence[str], patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def explain_no_match(pattern: str, names: Names) -> str:
    """Return a message that a pattern matches no parameter, with the names of some parameters."""
    known = [name for each in names.values() for name in each]
    close = get_close_matches(pattern, known, 1)
    guess = f" Did you mean {escape(close[0])}?" if close else ""
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"{escape(pattern)} matches no parameter.{guess} The network has {escape(', '.join(known[:12]), 600)}{more}"
