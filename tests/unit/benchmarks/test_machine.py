"""The machine that is measured."""

from benchmarks.machine import machine_name
from tests.unit.benchmarks.records import ABOUT


def test_a_machine_has_a_name_for_files() -> None:
    assert machine_name(ABOUT) == "some-cpu-7-2-cores"
