"""Text of others can't control the terminal or forge a line."""

import sys
import unicodedata

import pytest

from dist_train.system.escape import escape, escape_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("airplane", "airplane"),
        ("Überraschung 猫 🙂", "Überraschung 猫 🙂"),
        ("a\x1b[31mb\rc\nd\te", r"a\x1b[31mb\rc\nd\te"),
        ("a\u202eb\u2028c\x9b", r"a\u202eb\u2028c\x9b"),
        ("\udcff.png", r"\udcff.png"),
    ],
)
def test_characters_that_control_are_shown_as_escapes(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_no_character_of_unicode_controls_or_fails_to_print() -> None:
    for code in range(sys.maxunicode + 1):
        shown = escape(chr(code))
        shown.encode()
        assert not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in shown)


def test_a_long_text_keeps_its_ends() -> None:
    assert escape("a" * 5000 + "z", limit=10) == "aaaaa...aaaaz"


def test_newlines_and_tabs_of_several_lines_stay() -> None:
    assert escape_lines("a\tb\n\x1b[31mc\r\n\nd\u202e") == "a\tb\n\\x1b[31mc\\r\n\nd\\u202e"
    assert escape_lines("x" * 10_000) == "x" * 10_000
