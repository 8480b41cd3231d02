"""Show text that others wrote, such as class names and file names, on a terminal and in logs."""

import re

_HARMLESS = re.compile(r"[ -~]*")


def escape(text: object, limit: int = 500) -> str:
    """Make a text safe to show on one line: no control, format or surrogate characters, at most `limit` long.

    Those characters can move the cursor, change colours, reverse the order of letters or forge a line; each is replaced
    by its Python escape, e.g. a newline by `\\n`.
    """
    shown = str(text)
    if len(shown) > limit:
        shown = f"{shown[: limit // 2]}...{shown[len(shown) - limit // 2 :]}"
    if _HARMLESS.fullmatch(shown):
        return shown
    return "".join(_escape_character(character) for character in shown)


def escape_lines(text: str) -> str:
    """Make a text of several lines safe to show; newlines and tabs stay, and nothing is cut off."""
    return "\n".join(line if _HARMLESS.fullmatch(line) else _escape_line(line) for line in text.split("\n"))


def _escape_line(line: str) -> str:
    return "".join(each if each == "\t" else _escape_character(each) for each in line)


def _escape_character(character: str) -> str:
    # Not printable: control, format (such as bidirectional marks), surrogate, private and unassigned characters, and
    # separators except the space.
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
