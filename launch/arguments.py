"""Kinds of arguments that several commands take."""

import argparse
from collections.abc import Callable

AUTO = "auto"


def number_from(least: int, *words: str) -> Callable[[str], int | str]:
    """A reader of a number from `least` up, or of one of these words, which stay as they are."""

    def read(text: str) -> int | str:
        if text in words:
            return text
        if not (text.isascii() and text.isdecimal()) or int(text) < least:
            allowed = " or ".join([*words, f"a number from {least} up"])
            raise argparse.ArgumentTypeError(f"is {text!r}; it must be {allowed}")
        return int(text)

    return read
