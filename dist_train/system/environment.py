"""Read numbers from environment variables."""

from collections.abc import Mapping

from dist_train.errors import WorldError
from dist_train.system.escape import escape

_MOST_DIGITS = 9


def read_number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Read a variable that holds a whole number from 0 up.

    Args:
        default: what an unset or empty variable means; None: it is an error.

    Raises:
        WorldError: it is no such number.
    """
    text = environ.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise WorldError(f"environment: {name} is {escape(repr(text), 40)}; it must be a number from 0 to 999999999")
    return int(text)
