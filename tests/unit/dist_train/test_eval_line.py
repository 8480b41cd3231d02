"""Lines of evaluations: what is compared, and what is shown."""

import json
import math

import pytest

from dist_train.eval_line import Monitor, choose_name, find_mode, format_line, format_number, list_numbers, to_plain

LINE = {
    "kind": "eval", "step": 3, "epoch": 1, "split": "test", "loss": 0.02771, "accuracy": 0.99437, "correct": 353,
    "count": 355, "per_class": {"a": {"accuracy": 1.0}}, "top5": None, "time": 1.0,
}  # fmt: skip


def test_the_numbers_of_a_line_are_what_may_be_compared() -> None:
    assert list_numbers(LINE) == {"loss": 0.02771, "accuracy": 0.99437, "top5": None}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_a_number_that_no_float_can_hold_is_none(value: float) -> None:
    """Whatever a file says."""
    assert list_numbers({"loss": value}) == {"loss": None}
    assert format_line({"split": "test", "loss": value}) == "test loss not finite"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (LINE, "test accuracy 99.44 % (353 of 355), loss 0.0277, top5 not finite"),
        ({"split": "validation", "loss": None, "accuracy": 0.5}, "validation accuracy 50.00 %, loss not finite"),
        ({"split": "test", "loss": 1.5, "r2": -2e9, "count": 3}, "test loss 1.5000, r2 -2e+09"),
        ({"split": "test", "loss": 1.25e-7, "macro_f1": 0.0}, "test loss 1.25e-07, macro_f1 0.0000"),
    ],
)  # fmt: skip
def test_a_line_is_shown_with_all_its_numbers(line: dict[str, object], shown: str) -> None:
    assert format_line(line) == shown


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_written_as_null_and_is_never_the_best(value: float) -> None:
    assert json.loads(json.dumps(to_plain({"a": [value, {"b": (value, 1)}]}))) == {"a": [None, {"b": [None, 1]}]}
    assert format_number("loss", value) == "not finite"
    for mode in ("max", "min"):
        assert not Monitor("x", mode).is_better(value, None)
        assert not Monitor("x", mode).is_better(value, 0.0)


def test_only_a_better_value_is_the_best() -> None:
    assert [Monitor("a", "max").is_better(value, 0.5) for value in (0.4, 0.5, 0.6)] == [False, False, True]
    assert [Monitor("a", "min").is_better(value, 0.5) for value in (0.4, 0.5, 0.6)] == [True, False, False]
    assert Monitor("a", "max").is_better(-1.0, None)


def test_the_mode_follows_from_the_name() -> None:
    small = ("loss", "rmse", "mae", "mse", "mean_error", "val_loss")
    large = ("accuracy", "r2", "top5", "macro_f1", "errors_found", "lossless")
    assert [find_mode(name) for name in small] == ["min"] * len(small)
    assert [find_mode(name) for name in large] == ["max"] * len(large)
    assert (choose_name(("loss", "accuracy")), choose_name(("loss", "r2"))) == ("accuracy", "loss")
