"""Arguments that several commands take."""

import pytest

from launch.arguments import to_seconds


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-0:30", 88200), ("2-1:02:03", 176523)],
)
def test_seconds_of_a_time_limit(time: str, expected: int) -> None:
    assert to_seconds(time) == expected
