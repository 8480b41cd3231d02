"""The first difference between two runs, by their ledgers."""

import json
from pathlib import Path
from typing import Any

import pytest

from dist_train.errors import LedgerError
from dist_train.monitoring.ledger import float_to_hex
from dist_train.monitoring.ledger_comparison import Comparison, compare, compare_files
from tests.unit.dist_train.monitoring.test_ledger import lines


def test_equal_ledgers_agree() -> None:
    assert compare(lines(), lines()) == Comparison(5, None)


@pytest.mark.parametrize(
    ("changes", "step", "phase"),
    [
        ({"samples": {3: "0" * 16}, "loss": {3: float_to_hex(7.0)}}, 3, "data"),
        ({"loss": {3: float_to_hex(7.0)}, "grad_norm": {3: float_to_hex(7.0)}}, 3, "forward"),
        ({"grad_norm": {4: float_to_hex(7.0)}, "weights": {4: "ef" * 32}}, 4, "reduction"),
        ({"lr": {1: 0.2}, "weights": {2: "ef" * 32}}, 1, "update"),
        ({"weights": {2: "ef" * 32}, "loss": {3: float_to_hex(7.0)}}, 2, "update"),
    ],
)
def test_the_first_step_and_phase_in_which_two_runs_differ(changes: Any, step: int, phase: str) -> None:
    found = compare(lines(), lines(**changes))
    assert found.divergence is not None
    assert (found.steps, found.divergence.step, found.divergence.phase) == (step - 1, step, phase)
    assert compare(lines(**changes), lines()).divergence is not None


def test_a_different_loss_after_weights_without_a_hash_may_come_from_the_update() -> None:
    before_hashed = compare(lines(), lines(loss={3: float_to_hex(7.0)})).divergence
    unhashed = compare(lines(), lines(loss={4: float_to_hex(7.0)})).divergence
    assert before_hashed is not None
    assert unhashed is not None
    assert "update of step" not in before_hashed.description
    assert "or in the update of step 3" in unhashed.description


def test_a_field_that_one_run_did_not_measure_is_no_difference() -> None:
    other = lines(weights_every_steps=3, grad_norm=dict.fromkeys(range(1, 6)))
    assert compare(lines(), other) == Comparison(5, None)


def test_a_ledger_that_ends_before_the_other_does_not_agree() -> None:
    found = compare(lines(5), lines(3))
    assert found.steps == 3
    assert found.divergence is not None
    assert (found.divergence.step, found.divergence.phase) == (4, "")
    assert "only the first has this step (5 and 3 steps)" in found.divergence.description


def test_only_some_fields_are_compared_if_asked() -> None:
    other = lines(loss={2: float_to_hex(1.5)})
    assert compare(lines(), other, ("samples", "lr")) == Comparison(5, None)


@pytest.mark.parametrize(
    "changed", [{}, {"loss": {3: float_to_hex(7.0)}}, {"weights": {2: "ef" * 32}}, {"lr": {1: 0.2}}]
)
@pytest.mark.parametrize("steps", [3, 5])
@pytest.mark.parametrize("noise", ["", "noise\n"])
def test_files_are_compared_as_their_lines_are(tmp_path: Path, changed: Any, steps: int, noise: str) -> None:
    """Lines that are equal as text are not parsed."""
    first, second = lines(), lines(steps, **changed)
    paths = [tmp_path / name for name in ("first", "second")]
    for path, ledger in zip(paths, (first, second), strict=True):
        path.write_text(noise + "".join(json.dumps(line) + "\n" for line in ledger))
    assert compare_files(*paths) == compare(first, second)
    assert compare_files(*reversed(paths)) == compare(second, first)


def test_a_file_without_steps_is_not_compared(tmp_path: Path) -> None:
    for name, text in (("first", "noise\n"), ("second", "")):
        (tmp_path / name).write_text(text)
    with pytest.raises(LedgerError, match="has no steps yet"):
        compare_files(tmp_path / "first", tmp_path / "second")
