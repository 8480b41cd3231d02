"""The result of an evaluation as names and numbers: written, shown, and compared with others."""

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Mode = Literal["max", "min"]
_PLACE = ("kind", "split", "step", "epoch", "time")
"""Keys of a line of `metrics.jsonl` that are not part of the result."""
_COUNTS = ("correct", "count")
_FRACTION = re.compile(r"accuracy|top\d+|exact_match")
_SMALLER_IS_BETTER = re.compile(r"(.*_)?(loss|error|rmse|mae|mse)")


class Monitor(NamedTuple):
    """The number of an evaluation that selects the best."""

    name: str
    mode: Mode

    @property
    def higher_is_better(self) -> bool:
        return self.mode == "max"

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best before; one that is not finite never is."""
        if not math.isfinite(value):
            return False
        return best is None or (value > best if self.higher_is_better else value < best)


def find_mode(name: str) -> Mode:
    """Return `min` for numbers that are better if smaller, such as losses and errors, else `max`."""
    return "min" if _SMALLER_IS_BETTER.fullmatch(name) else "max"


def choose_name(names: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return the name of the number that selects the best evaluation where the settings name none."""
    return "accuracy" if "accuracy" in names else "loss"


def to_plain(value: Any) -> Any:
    """Return a value that JSON can hold: null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def list_numbers(line: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the numbers of a result that can be compared; None for one that was not finite."""
    named = {name: value for name, value in line.items() if name not in (*_PLACE, *_COUNTS)}
    return {name: _bound(value) for name, value in named.items() if value is None or type(value) in (int, float)}


def _bound(value: float | None) -> float | None:
    """Return a number, None if no float can hold it."""
    return value if value is not None and abs(value) <= sys.float_info.max else None


def is_fraction(name: str) -> bool:
    """Whether a number is a share of samples, shown in per cent."""
    return bool(_FRACTION.fullmatch(name))


def format_number(name: str, value: float | None) -> str:
    """`accuracy` as 97.25 %, other numbers as 0.0277 or 1.2e-06."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if is_fraction(name):
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"


def format_line(line: Mapping[str, Any]) -> str:
    """`test accuracy 99.44 % (353 of 355), loss 0.0277`: all numbers of a result."""
    numbers = list_numbers(line)
    order = sorted(numbers, key=lambda name: (name != "accuracy", name != "loss"))
    parts = [f"{name} {format_number(name, numbers[name])}" for name in order]
    if parts and order[0] == "accuracy" and "correct" in line:
        parts[0] += f" ({line['correct']} of {line['count']})"
    return f"{line['split']} {', '.join(parts)}"
