"""Types of arguments that several commands have."""

import argparse
import re
from collections.abc import Callable

from dist_train.system.escape import escape

AUTO = "auto"
TAKES_ALIASES = "takes_aliases"
CONFIG = "YAML file of settings, e.g. configs/digits.yaml, or the name of a recipe (dist-train recipes)"
LARGEST = 10**9  # of a number without a limit of its own
TIME = r"[0-9]{1,6}(:[0-9]{1,6}){0,2}|[0-9]{1,6}-[0-9]{1,6}(:[0-9]{1,6}){0,2}"
"""A time limit in sbatch's format."""


def number_from(least: int, *words: str, most: int = LARGEST) -> Callable[[str], int | str]:
    """Return an argparse type: an integer from `least` to `most`, or one of `words`."""

    def read(text: str) -> int | str:
        if text in words:
            return text
        is_number = text.isascii() and text.isdecimal() and len(text) < 30
        if not is_number or not least <= int(text) <= most:
            allowed = " or ".join([*words, f"a number from {least} {'up' if most == LARGEST else f'to {most}'}"])
            raise argparse.ArgumentTypeError(f"is '{escape(text, 60)}'; it must be {allowed}")
        return int(text)

    return read


def parse_time_limit(text: str) -> str:
    """Return the text unchanged if it is a time limit; an argparse type."""
    if not re.fullmatch(TIME, text):
        raise argparse.ArgumentTypeError(
            f"is '{escape(text, 60)}'; it must be like 2:00:00, 1-12:00:00 or minutes, the formats of sbatch"
        )
    return text


def to_seconds(time: str) -> int:
    """Convert minutes, minutes:seconds, hours:minutes:seconds or days-hours[:minutes[:seconds]] to seconds."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, left = (*parts, 0, 0)[:3]
    else:
        hours, minutes, left = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + left


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG and `key=value`, as `options.config` and `options.overrides`, which have the aliases of CONFIG too."""
    parser.set_defaults(**{TAKES_ALIASES: True})
    parser.add_argument("config", metavar="CONFIG", help=CONFIG)
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that override those of the file"
    )
