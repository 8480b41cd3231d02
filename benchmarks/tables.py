"""Numbers and tables as Markdown."""

from collections.abc import Iterable, Sequence


def number(value: float) -> str:
    """At least three digits: 3,243, 57.1, 0.941."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
