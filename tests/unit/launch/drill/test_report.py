"""The results of a drill."""

from launch.drill.report import HEADING, RoundResult

ELASTIC = RoundResult(3, "resize", 17, 15, 2, 1.26, 2, "same samples and learning rates", passed=True)


def test_a_row_has_the_columns_of_the_heading() -> None:
    row = ELASTIC.format_row()
    assert row.split()[:4] == ["3", "resize", "17", "step"]
    assert row.endswith("same samples and learning rates")
    assert row.index("same") == HEADING.index("verdict")


def test_a_round_passes_only_where_both_tiers_pass() -> None:
    bitwise = RoundResult(3, "resize", 9, None, 1, 0.5, 0, "weights b, without a fault a", passed=False)
    both = ELASTIC.merge(bitwise)
    assert (both.starts, both.seconds_lost, both.passed) == (3, 1.8, False)
    assert "FAILED: same samples and learning rates; under bitwise weights b" in both.format_row()
