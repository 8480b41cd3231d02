"""Numbers with their nouns, as messages show them."""


def format_count(number: int, noun: str, plural: str = "") -> str:
    """Return such as `1 step` or `1,024 steps`; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
