"""Numbers in environment variables."""

import pytest

from dist_train.errors import WorldError
from dist_train.system.environment import read_number


def test_a_number_is_read() -> None:
    assert read_number({"N": "12"}, "N") == 12
    assert [read_number(environ, "N", 3) for environ in ({}, {"N": ""}, {"N": "0"})] == [3, 3, 0]


@pytest.mark.parametrize("text", ["-1", "1.5", "one", "nan", "²", "9" * 5000, "\x1b[2J", " 1"])
@pytest.mark.parametrize("default", [None, 3])
def test_anything_else_is_named(text: str, default: int | None) -> None:
    with pytest.raises(WorldError, match=r"environment: N is .*; it must be a number") as raised:
        read_number({"N": text}, "N", default)
    assert "\x1b" not in str(raised.value)
