"""Kinds of arguments that several commands take."""

import argparse
import re
from collections.abc import Callable

AUTO = "auto"
TIME = r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}"
"""A time limit as sbatch has it."""


def number_from(least: int, *words: str, most: int | None = None) -> Callable[[str], int | str]:
    """A reader of a number from `least` up, or to `most`, or of one of these words, which stay as they are."""

    def read(text: str) -> int | str:
        if text in words:
            return text
        is_number = text.isascii() and text.isdecimal()
        if not is_number or int(text) < least or (most is not None and int(text) > most):
            allowed = " or ".join([*words, f"a number from {least} {'up' if most is None else f'to {most}'}"])
            raise argparse.ArgumentTypeError(f"is {text!r}; it must be {allowed}")
        return int(text)

    return read


def parse_time_limit(text: str) -> str:
    """A time limit, which stays as it is."""
    if not re.fullmatch(TIME, text):
        raise argparse.ArgumentTypeError(
            f"is {text!r}; it must be like 2:00:00, 1-12:00:00 or minutes, as sbatch has it"
        )
    return text


def to_seconds(time: str) -> int:
    """The seconds of a time as sbatch has it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:...]."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, left = (*parts, 0, 0)[:3]
    else:
        hours, minutes, left = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + left
