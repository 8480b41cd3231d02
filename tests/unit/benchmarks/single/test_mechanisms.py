"""The rows of the mechanisms: what is run with each and without it."""

import sys
from pathlib import Path

import pytest

from benchmarks.compare.session import merge_settings, own_settings
from benchmarks.compare.workloads import WORKLOADS
from benchmarks.processes import ROOT
from benchmarks.rounds import RoundsResult
from benchmarks.single import mechanisms, without
from benchmarks.single.mechanisms import ROWS, Row, Variant
from dist_train.errors import UserError
from dist_train.settings.loader import load_config
from tests.unit.benchmarks.records import ABOUT, make_reading, make_record, make_session


def make_row(unit: str) -> Row:
    return Row("cache", "a run", unit, lambda *_: make_reading(1.0), Variant("on"), Variant("off"))


@pytest.mark.parametrize(("unit", "gain"), [("samples/s", 3.0), ("s", 1 / 3)])
def test_a_gain_is_how_many_times_as_fast_it_is(unit: str, gain: float) -> None:
    row = make_row(unit)
    records = [
        make_record(row.case(variant), number, value)
        for number in range(3)
        for variant, value in ((row.on, 30.0), (row.off, 10.0))
    ]
    found = row.gain(records)
    assert found is not None
    assert found.median == pytest.approx(gain)
    text = mechanisms.report(ABOUT, [row], RoundsResult(records, [], False))
    assert f"| {gain:.2f} ({gain:.2f} to {gain:.2f}) |" in text
    assert row.gain(records[:1]) is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.mechanism}, {row.what}")
def test_the_settings_of_a_row_are_valid_and_differ(row: Row, tmp_path: Path) -> None:
    own = own_settings(make_session(tmp_path), WORKLOADS["mnist"])
    configs = [
        load_config(ROOT / "configs" / "mnist_example.yaml", merge_settings(own, variant.settings))
        for variant in (row.on, row.off)
    ]
    assert configs[0] != configs[1] or row.on.launcher != row.off.launcher or row.mechanism == "cache"
    assert row.on.text != row.off.text


def test_each_comparison_has_its_own_cases() -> None:
    cases = [row.case(variant) for row in ROWS for variant in (row.on, row.off)]
    assert len(set(cases)) == len(cases)


def test_what_has_no_setting_can_be_left_out() -> None:
    launchers = [row.off.launcher for row in ROWS if "benchmarks.single.without" in row.off.launcher]
    assert {launcher[-1] for launcher in launchers} == set(without.WITHOUT)


def test_an_unknown_mechanism_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mechanisms", "caches"])
    with pytest.raises(UserError, match="there is no mechanism caches; there are shared_memory, "):
        mechanisms.main()
