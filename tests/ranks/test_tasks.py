"""Every loss over unequal shares is torch's own over the whole batch, and an evaluation has the same bits everywhere.

At 1, 2, 3 and 4 ranks, some of which have no sample of a small batch.
"""

import importlib.util
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from sklearn import metrics as sklearn
from torch import Tensor
from torch.nn import functional

from tests.conftest import Ranks
from tests.programs.tasks import CLASSES, COUNTS, EVAL_SAMPLES, Net, draw_samples

pytestmark = pytest.mark.slow

WORLDS = (1, 2, 3, 4)
SETTINGS = """
data: {name: synthetic}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.1}
"""
MINE = '''
import torch

def mean(output, target):
    return (output - target).abs().pow(1.5).mean()

def each(output, target):
    return (output - target).abs().pow(1.5).mean(dim=1)

class Power:
    def __init__(self, power):
        self.power = power

    def __call__(self, output, target):
        return (output - target).abs().pow(self.power).mean()

def first_is_positive(output, target):
    return output[:, 0] > 0

def as_float(output, target):
    return output.square().mean().item()

class Mean:
    """What torchmetrics has: states that are sums, and one that is a list of what came."""
    def __init__(self):
        self._defaults = {"total": torch.tensor(0.0), "seen": []}
        self._reductions = {"total": torch.sum, "seen": torch.cat}
        self.reset()

    def reset(self):
        self.total, self.seen = torch.tensor(0.0), []

    def update(self, output, target):
        self.total = self.total + output.square().sum()
        self.seen.append(output[:, 0])

    def compute(self):
        seen = self.seen if isinstance(self.seen, torch.Tensor) else torch.cat(self.seen)
        return {"total": self.total, "median": seen.median(), "first": seen[0]}

class Task:
    metrics = {"positive": first_is_positive}

    def loss(self, output, target):
        return each(output, target)
'''
TORCHMETRICS = """
from torchmetrics.classification import MulticlassAUROC, MulticlassF1Score
from torchmetrics.regression import PearsonCorrCoef, MeanSquaredError

f1 = MulticlassF1Score(5, average="macro")
auroc = MulticlassAUROC(5)
"""
WEIGHT = [0.5, 2.0, 1.0, 0.1, 3.0]
tensor = partial(torch.tensor, dtype=torch.float64)

Reference = Callable[[Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """A loss, and what torch says of it over the whole batch."""

    samples: str
    reference: Reference
    overrides: tuple[str, ...] = ()


def classify(name: str, function: Callable[..., Tensor], args: str = "{}", **arguments: Any) -> Case:
    return Case("labels", lambda output, target: function(output, target, **arguments), (f"loss.name={name}", f"loss.args={args}"))


def measure(name: str, reference: Reference, args: str = "{}", *more: str) -> Case:
    return Case("numbers", reference, ("task=regression", f"loss.name={name}", f"loss.args={args}", *more))


def powered(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().pow(1.5).mean()


METRICS = "metrics=[accuracy, per_class, top2, macro_f1, confusion_matrix, MINE:as_float, MINE:first_is_positive, MINE:Mean]"
CASES = {
    "cross_entropy": Case("labels", functional.cross_entropy, (METRICS,)),
    "smoothed": classify("cross_entropy", functional.cross_entropy, "{label_smoothing: 0.1}", label_smoothing=0.1),
    "weighted": classify("cross_entropy", functional.cross_entropy, f"{{weight: {WEIGHT}}}", weight=tensor(WEIGHT)),
    "ignoring": classify("cross_entropy", functional.cross_entropy, "{ignore_index: 2}", ignore_index=2),
    "all arguments": classify(
        "cross_entropy", functional.cross_entropy, f"{{weight: {WEIGHT}, ignore_index: 0, label_smoothing: 0.2}}",
        weight=tensor(WEIGHT), ignore_index=0, label_smoothing=0.2,
    ),
    "shares": Case("shares", functional.cross_entropy),
    "weighted shares": Case(
        "shares", partial(functional.cross_entropy, weight=tensor(WEIGHT)), (f"loss.args={{weight: {WEIGHT}}}",)
    ),
    "nll": classify("nll", functional.nll_loss, f"{{weight: {WEIGHT}}}", weight=tensor(WEIGHT)),
    "field": Case("labels", functional.cross_entropy, ("loss.output=logits",)),
    "own loss of the network": Case("labels", lambda output, _: output.square().mean(), ("loss.name=output.loss", "loss.output=logits")),
    "one a sample of the network": Case("labels", lambda output, _: output.square().mean(), ("loss.name=output.each", "loss.output=logits")),
    "mse": measure("mse", functional.mse_loss, "{}", "metrics=[rmse, mae, r2, MINE:Mean, MINE:as_float]"),
    "mae": measure("mae", functional.l1_loss),
    "huber": measure("huber", partial(functional.huber_loss, delta=0.3), "{delta: 0.3}"),
    "half_sse": measure("half_sse", lambda output, target: 0.5 * (output - target).square().sum()),
    "own mean": measure("MINE:mean", powered),
    "own each": measure("MINE:each", powered),
    "own class": measure("MINE:Power", powered, "{power: 1.5}"),
    "own task": Case("numbers", powered, ("task=MINE:Task",)),
    "bce": Case(
        "several", lambda output, target: functional.binary_cross_entropy_with_logits(output, target.to(output)),
        ("task=multilabel", "metrics=[accuracy, exact_match, macro_f1, micro_f1, per_class]"),
    ),
    "weighted bce": Case(
        "several",
        lambda output, target: functional.binary_cross_entropy_with_logits(
            output, target.to(output), weight=tensor(WEIGHT), pos_weight=tensor(WEIGHT)
        ),
        ("task=multilabel", f"loss.args={{weight: {WEIGHT}, pos_weight: {WEIGHT}}}"),
    ),
}  # fmt: skip
if importlib.util.find_spec("torchmetrics"):
    CASES["torchmetrics"] = Case("labels", functional.cross_entropy, ("metrics=[accuracy, THEIRS:f1, THEIRS:auroc]",))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, on_ranks: Ranks) -> dict[int, dict[str, Any]]:
    """What each number of ranks finds, by the names of the cases."""
    directory = tmp_path_factory.mktemp("tasks")
    (directory / "settings.yaml").write_text(SETTINGS)
    files = {"MINE": directory / "mine.py", "THEIRS": directory / "theirs.py"}
    files["MINE"].write_text(MINE)
    files["THEIRS"].write_text(TORCHMETRICS)

    def place(override: str) -> str:
        for name, file in files.items():
            override = override.replace(f"{name}:", f"{file}:")
        return override

    cases = [{"overrides": [*map(place, case.overrides)], "samples": case.samples} for case in CASES.values()]
    (directory / "cases.json").write_text(json.dumps({"settings": str(directory / "settings.yaml"), "cases": cases}))
    found: dict[int, dict[str, Any]] = {}
    for ranks in WORLDS:
        output = directory / f"{ranks}.json"
        done = on_ranks(ranks, "-m", "tests.programs.tasks", str(directory / "cases.json"), str(output))
        assert done.returncode == 0, done.stderr
        found[ranks] = dict(zip(CASES, json.loads(output.read_text()), strict=True))
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ranks", WORLDS)
def test_a_step_has_the_loss_and_gradient_of_the_whole_batch(
    results: dict[int, dict[str, Any]], ranks: int, name: str
) -> None:
    case = CASES[name]
    for count, found in zip(COUNTS, results[ranks][name]["steps"], strict=True):
        network = Net(torch.float64)
        inputs, targets = draw_samples(case.samples, count, torch.float64, seed=count)
        loss = case.reference(network(inputs), targets)
        if loss.isnan():  # torch's mean over no label
            loss = 0 * network(inputs).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-12, abs=1e-14), count
        for mine, parameter in zip(found["gradients"], network.parameters(), strict=True):
            torch.testing.assert_close(tensor(mine), parameter.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_an_evaluation_has_the_same_bits_at_any_number_of_ranks(results: dict[int, dict[str, Any]], name: str) -> None:
    lines = {json.dumps(results[ranks][name]["evaluation"]) for ranks in WORLDS}
    assert len(lines) == 1, lines
    (line,) = map(json.loads, lines)
    assert math.isfinite(line["loss"])
    assert line["count"] > 0


def evaluated(results: dict[int, dict[str, Any]], name: str) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The line of a case, and the outputs and targets of all samples."""
    inputs, targets = draw_samples(CASES[name].samples, EVAL_SAMPLES, torch.float32, seed=99)
    return results[1][name]["evaluation"], Net(torch.float32)(inputs).detach(), targets


def test_classification_is_that_of_scikit_learn(results: dict[int, dict[str, Any]]) -> None:
    line, output, labels = evaluated(results, "cross_entropy")
    said = output.argmax(dim=1)
    assert list(line)[:6] == ["split", "loss", "accuracy", "correct", "count", "per_class"]
    assert line["loss"] == pytest.approx(functional.cross_entropy(output, labels).item(), rel=1e-6)
    assert line["accuracy"] == sklearn.accuracy_score(labels, said)
    assert line["top2"] == sklearn.top_k_accuracy_score(labels, output, k=2, labels=range(CLASSES))
    assert line["macro_f1"] == pytest.approx(sklearn.f1_score(labels, said, average="macro"), rel=1e-12)
    assert line["confusion_matrix"] == sklearn.confusion_matrix(labels, said, labels=range(CLASSES)).tolist()
    rows = {f"class {number}": int((labels == number).sum()) for number in range(CLASSES)}
    assert {name: row["count"] for name, row in line["per_class"].items()} == {name: n for name, n in rows.items() if n}
    assert line["first_is_positive"] == pytest.approx((output[:, 0] > 0).double().mean().item(), rel=1e-12)
    assert line["as_float"] == pytest.approx(output.square().mean().item(), rel=1e-6)


def test_an_object_has_the_value_of_all_samples(results: dict[int, dict[str, Any]]) -> None:
    """As if one process had called it with each batch in turn."""
    line, output, _ = evaluated(results, "cross_entropy")
    found = {name.rpartition("_")[2]: value for name, value in line.items() if name.startswith("Mean")}
    assert found["total"] == pytest.approx(output.square().sum().item(), rel=1e-6)
    assert found["median"] == pytest.approx(output[:, 0].median().item(), rel=1e-6)
    assert found["first"] == pytest.approx(output[0, 0].item(), rel=1e-6)


def test_regression_is_that_of_scikit_learn(results: dict[int, dict[str, Any]]) -> None:
    line, output, targets = evaluated(results, "mse")
    assert line["loss"] == pytest.approx(functional.mse_loss(output, targets).item(), rel=1e-6)
    assert line["rmse"] == pytest.approx(sklearn.root_mean_squared_error(targets.flatten(), output.flatten()), rel=1e-6)
    assert line["mae"] == pytest.approx(sklearn.mean_absolute_error(targets, output), rel=1e-6)
    assert line["r2"] == pytest.approx(sklearn.r2_score(targets, output), rel=1e-6)
    assert line["count"] == EVAL_SAMPLES


def test_multilabel_is_that_of_scikit_learn(results: dict[int, dict[str, Any]]) -> None:
    line, output, targets = evaluated(results, "bce")
    said = (output > 0).int()
    assert line["accuracy"] == pytest.approx((said == targets).double().mean().item(), rel=1e-12)
    assert line["exact_match"] == sklearn.accuracy_score(targets, said)
    assert line["macro_f1"] == pytest.approx(sklearn.f1_score(targets, said, average="macro"), rel=1e-12)
    assert line["micro_f1"] == pytest.approx(sklearn.f1_score(targets, said, average="micro"), rel=1e-12)


def test_torchmetrics_is_that_of_one_process(results: dict[int, dict[str, Any]]) -> None:
    theirs = pytest.importorskip("torchmetrics.classification")
    line, output, labels = evaluated(results, "torchmetrics")
    assert line["f1"] == pytest.approx(theirs.MulticlassF1Score(CLASSES, average="macro")(output, labels).item())
    assert line["auroc"] == pytest.approx(theirs.MulticlassAUROC(CLASSES)(output, labels).item())
