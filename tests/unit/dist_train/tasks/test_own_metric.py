"""The user's metrics: what they may return, and messages about other values."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_train.distributed.world import World
from dist_train.errors import ConfigError, OwnCodeError
from dist_train.tasks.metrics import build_metric, make_own_metric
from dist_train.tasks.sums import Format

CPU = torch.device("cpu")
OUTPUT, TARGET = torch.randn(2, 10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()


def result(function: Any, output: Any = OUTPUT, target: Any = TARGET, size: int = 4) -> Any:
    """Return what a metric gives over batches of a size."""
    parts = list(zip(output.split(size), target.split(size), strict=True))
    sums = make_own_metric("m", "own.py:m", function, World()).open_sums(Format(len(parts), CPU))
    for number, (one, other) in enumerate(parts):
        sums.add(number, one, other, len(one))
    sums.reduce(World())
    return sums.result()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "a mean": lambda output, target: (output - target).mean(),
    "a mean as a number": lambda output, target: (output - target).mean().item(),
    "a mean of NumPy": lambda output, target: np.mean((output - target).numpy()),
    "one value a sample": lambda output, target: (output - target).mean(dim=1),
    "one value a sample in a lower type": lambda output, target: (output - target).mean(dim=1).to(torch.float32),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_return_a_mean_or_one_value_a_sample(name: str) -> None:
    """Each sample counts the same, in a smaller last batch too."""
    assert result(FUNCTIONS[name])["m"] == pytest.approx((OUTPUT - TARGET).mean().item(), rel=1e-6)


def test_hits_may_be_true_or_false() -> None:
    hits = result(lambda output, target: (output > target).all(dim=1))["m"]
    assert hits == (OUTPUT > TARGET).all(dim=1).double().mean()


def test_what_is_not_finite_is_no_failure() -> None:
    assert np.isnan(result(lambda _output, _target: float("nan"))["m"])
    assert np.isinf(result(lambda output, _target: output.abs().sum() / 0)["m"])


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("0.5", "a str"),
        (None, "a NoneType"),
        (torch.zeros(3), r"float32 \[3\]"),
        (torch.zeros(4, 1), r"float32 \[4, 1\]"),
        (torch.zeros((), dtype=torch.complex64), r"complex64 \[\]"),
        ([0.5] * 4, "a list of"),
    ],
    ids=str,
)
def test_what_is_no_metric_is_refused(value: Any, what: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"metric own.py:m \(line \d+\): returns {what}.* for 4 samples; it must return the mean"
    ):
        result(lambda _output, _target: value)


def test_an_error_names_the_batch_and_is_shown_as_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def m(output, target):\n    assert len(output) == 4, 'a small batch'\n    return 0.0\n"
    )
    sums = build_metric(f"{tmp_path}/own.py:m", "regression", World()).open_sums(Format(3, CPU))
    sums.add(0, OUTPUT[:4], TARGET[:4], 4)
    with pytest.raises(OwnCodeError) as error:
        sums.add(2, OUTPUT[8:], TARGET[8:], 2)
    text = str(error.value)
    assert f"metric {tmp_path}/own.py:m (line 1), called with batch 2 of the evaluation on rank 0, failed" in text
    assert 'own.py", line 2, in m' in text
    assert "dist_train/" not in text
    assert text.endswith("AssertionError: a small batch")


class Counter:
    """An object with the interface of torchmetrics and no states."""

    def update(self, output: Any, target: Any) -> None: ...

    def compute(self) -> float:
        return 0.0

    def reset(self) -> None: ...


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3, "which is a int; a metric is a function"),
        (Counter(), "has no states that ranks can add up"),
        (Counter, "has no states that ranks can add up"),
    ],
)
def test_what_is_neither_a_function_nor_a_metric_object_is_refused(found: Any, message: str) -> None:
    if isinstance(found, type):
        found = found()
    with pytest.raises(ConfigError, match=message):
        make_own_metric("m", "own.py:m", found, World())


@pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")
@pytest.mark.parametrize("size", [1, 4, 10])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MeanSquaredError", {}),
        ("R2Score", {"multioutput": "uniform_average"}),
        ("PearsonCorrCoef", {}),
        ("SpearmanCorrCoef", {}),
        ("ExplainedVariance", {}),
        ("CosineSimilarity", {"reduction": "mean"}),
    ],
)
def test_metrics_of_torchmetrics_are_as_over_the_whole_split(name: str, arguments: dict[str, Any], size: int) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    output, target = OUTPUT, TARGET
    if "Corr" in name:
        output, target = OUTPUT[:, 0].contiguous(), TARGET[:, 0].contiguous()
    if size == 1 and name in ("R2Score", "PearsonCorrCoef"):
        pytest.skip("torchmetrics merges no states of one sample")
    make = partial(getattr(torchmetrics, name), **arguments)
    whole = make()
    whole.set_dtype(torch.float64)
    whole.update(output, target)
    metric = make()
    metric.set_dtype(torch.float64)
    torch.testing.assert_close(
        torch.tensor(result(metric, output, target, size)["m"]).double(), whole.compute().double(), rtol=1e-6, atol=1e-6
    )
