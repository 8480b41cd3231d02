"""Values and names of settings on one line of a message."""

import re
from typing import Any

from dist_train.system.escape import escape

MAX_LENGTH = 60


def format_value(value: Any) -> str:
    """Format a value as YAML, on one short line."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {format_value(inner)}" for key, inner in value.items()) + "}"
    elif isinstance(value, tuple):
        text = "[" + ", ".join(map(format_value, value)) + "]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = add_decimal_point(repr(value)) if isinstance(value, float) else repr(value)
    return shorten(text)


def shorten(text: str) -> str:
    """Return `text` on one line, cut to MAX_LENGTH characters."""
    line = escape(text, len(text))
    return line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH - 3]}..."


def add_decimal_point(number: str) -> str:
    """Write a number so that YAML reads it as one: `3e-4` becomes `3.0e-4`."""
    return number if "." in number else re.sub("[eE]", ".0e", number)
