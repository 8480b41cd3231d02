"""Numbers and tables as Markdown."""

import pytest

from benchmarks.tables import number


@pytest.mark.parametrize(("value", "text"), [(3243.4, "3,243"), (57.12, "57.1"), (0.94149, "0.941"), (2.0, "2.00")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
