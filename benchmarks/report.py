"""A session's numbers as tables: `results/<machine>-<date>.md`, and the part of the README that is made from it."""

from collections.abc import Iterable, Sequence

from benchmarks.rounds import Case, Record, Spread, of_case


def number(value: float) -> str:
    """Three digits at least: 3,243, 57.1, 0.941."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cases(records: Iterable[Record]) -> list[Case]:
    """The cases that there are records of, in their order."""
    return list(dict.fromkeys(record.case for record in records))


def spread_of(records: Iterable[Record], case: Case) -> Spread:
    """Of the readings of a case."""
    return Spread.of(record.value for record in of_case(records, case))


def medians(records: Sequence[Record]) -> str:
    """Every case with its median, spread and n."""
    rows = []
    for case in cases(records):
        spread = spread_of(records, case)
        disturbed = sum(record.is_disturbed for record in records if record.case == case)
        rows.append(
            [
                case.measure, case.work, str(case.ranks), case.name, f"{number(spread.median)} {case.unit}",
                f"{number(spread.low)} to {number(spread.high)}", str(spread.n), str(disturbed or ""),
            ]
        )  # fmt: skip
    return table(("measure", "work", "ranks", "who", "median", "spread", "n", "disturbed"), rows)
