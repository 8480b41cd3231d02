"""Divide the parameters of a network into groups, by the patterns of `optim.groups` and by what Muon can update."""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from torch import nn

from dist_train.errors import ConfigError
from dist_train.models.patterns import Names, explain_no_match, find_matches, list_names, matches
from dist_train.settings.loading.values import format_value
from dist_train.settings.schema.optim import Muon, Optim, Optimizer, OwnOptim
from dist_train.system.escape import escape


class ParameterGroup(NamedTuple):
    """Parameters that have the same optimizer, arguments and schedule."""

    optimizer: Optimizer
    """Settings of the optimizer that updates them."""
    changed: dict[str, Any]
    """Arguments of the optimizer that the group sets."""
    schedule: str
    """The name of their learning rate's schedule."""
    parameters: dict[str, nn.Parameter]
    """The parameters by their names in the network, in its order."""
    sources: tuple[int, ...]
    """Numbers of the entries of `optim.groups` that match them."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments of the optimizer for this group, `lr` included."""
        return {**self.optimizer.arguments(), **self.changed}


def find_groups(
    config: Optim, network: nn.Module, later: Container[nn.Parameter] = frozenset()
) -> list[ParameterGroup]:
    """Divide all parameters of `network` that take gradients; those that no pattern matches are the first group.

    Args:
        later: parameters that will take gradients.

    Raises:
        ConfigError: a pattern matches no parameter, two groups set a parameter's argument differently, or a group sets
            an argument that its optimizer does not have.
    """
    names = list_names(network)
    trained = {parameter: each for parameter, each in names.items() if parameter.requires_grad or parameter in later}
    if not trained:
        raise ConfigError(
            f"model: none of its {len(names)} parameters takes a gradient, so that there is none to train"
        )
    for number, group in enumerate(config.groups):
        for pattern in group.match:
            _check_pattern(number, pattern, names, trained)
    found: dict[tuple[bool, tuple[int, ...]], dict[str, nn.Parameter]] = {}
    for parameter, each in trained.items():
        sources = tuple(number for number, group in enumerate(config.groups) if matches(each, group.match))
        found.setdefault((_is_rest(config, sources, parameter), sources), {})[each[0]] = parameter
    groups = [_make_group(config, is_rest, sources, parameters) for (is_rest, sources), parameters in found.items()]
    return sorted(groups, key=lambda group: (group.optimizer is not config, group.sources))


def format_groups(groups: Sequence[ParameterGroup]) -> str:
    """Return a text with each group's optimizer, arguments and parameters."""
    lines = []
    for number, group in enumerate(groups):
        count = sum(parameter.numel() for parameter in group.parameters.values())
        sources = "".join(f", optim.groups[{source}]" for source in group.sources)
        lines += [
            f"group {number}: {group.optimizer.name}{sources}: {len(group.parameters)} parameters, {count:,} weights",
            "  " + ", ".join(f"{key} {format_value(value)}" for key, value in group.arguments.items()),
            f"  schedule {group.schedule}",
            *(f"    {escape(name)} {list(parameter.shape)}" for name, parameter in group.parameters.items()),
        ]
    return "\n".join(lines)


def _check_pattern(number: int, pattern: str, names: Names, trained: Container[nn.Parameter]) -> None:
    """Raise ConfigError if a pattern matches no parameter that takes a gradient."""
    matched, key = find_matches(names, (pattern,)), f"optim.groups[{number}].match"
    if any(parameter in trained for parameter in matched):
        return
    if matched:
        raise ConfigError(
            f"{key}: {escape(pattern)} matches {len(matched)} parameters, and none of them takes a gradient; leave it "
            "out"
        )
    raise ConfigError(f"{key}: {explain_no_match(pattern, names)}")


def _is_rest(config: Optim, sources: tuple[int, ...], parameter: nn.Parameter) -> bool:
    """Whether Muon leaves a parameter to its other optimizer."""
    if not isinstance(config, Muon):
        return False
    asks = any(getattr(config.groups[number], "optimizer", None) == "rest" for number in sources)
    return asks or parameter.dim() < 2 or parameter.is_complex()


def _make_group(
    config: Optim, is_rest: bool, sources: tuple[int, ...], parameters: dict[str, nn.Parameter]
) -> ParameterGroup:
    """Return a group with all that `optim.groups` sets for it; raises ConfigError."""
    optimizer: Optimizer = config.rest if is_rest and isinstance(config, Muon) else config
    own, name = optimizer.arguments(), escape(next(iter(parameters)))
    chosen: dict[str, Any] = {}
    setter: dict[str, int] = {}
    for number in sources:
        for key, value in config.groups[number].settings().items():
            what = f"optim.groups[{number}].{key} is {format_value(value)}, but"
            if key not in own and key != "schedule" and not isinstance(optimizer, OwnOptim):
                raise ConfigError(
                    f"{what} {name} is updated by {optimizer.name}, which does not have it; it has {', '.join(own)}. "
                    "Give the others a group of their own"
                )
            if chosen.setdefault(key, value) != value:
                raise ConfigError(
                    f"{what} optim.groups[{setter[key]}] matches {name} too and sets {format_value(chosen[key])}; let "
                    "only one of them match it"
                )
            setter[key] = number
    schedule = chosen.pop("schedule", config.schedule)
    return ParameterGroup(optimizer, chosen, schedule, parameters, sources)
