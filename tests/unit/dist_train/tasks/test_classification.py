"""Metrics of classification and multilabel are those of scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from dist_train.errors import DataError
from dist_train.settings.loader import load_config
from dist_train.tasks import build_task

CLASSES = tuple("abcde")


def evaluate(tmp_path: Path, text: str, output: Tensor, targets: Tensor, classes: tuple[str, ...] = CLASSES) -> Any:
    """Return the result of an evaluation in batches of unequal sizes."""
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {{name: synthetic}}\nmodel: {{name: lenet}}\n{text}\n")
    task = build_task(load_config(path), classes)
    task.try_out(output[:2].requires_grad_(), targets[:2], 2)
    sizes = [4, 3, len(output) - 7]
    sums = task.open_evaluation(len(sizes), torch.device("cpu"))
    for number, (one, other) in enumerate(zip(torch.split(output, sizes), torch.split(targets, sizes), strict=True)):
        sums.add(number, one, other, len(one))
    return sums.result("test").to_dict()


def logits(*shape: int) -> Tensor:
    """Logits with ties."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(0)).float()


def labels(*shape: int, high: int = len(CLASSES) - 1) -> Tensor:
    """Labels of all classes but the last."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


def test_metrics_of_classification(tmp_path: Path) -> None:
    output, targets = logits(40, 5), labels(40)
    said = output.argmax(dim=1)
    found = evaluate(tmp_path, "metrics: [accuracy, top1, top2, macro_f1, confusion_matrix]", output, targets)
    order = np.argsort(-output.numpy(), axis=1, kind="stable")[:, :2]
    assert found["accuracy"] == found["top1"] == metrics.accuracy_score(targets, said)
    assert found["top2"] == (order == targets.numpy()[:, None]).any(axis=1).mean()
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(targets, said, average="macro"), rel=1e-12)
    assert found["confusion_matrix"] == metrics.confusion_matrix(targets, said, labels=range(5)).tolist()
    assert set(found["per_class"]) == set("abcd")
    assert sum(row["correct"] for row in found["per_class"].values()) == found["correct"]


def test_lines_keep_their_keys(tmp_path: Path) -> None:
    found = evaluate(tmp_path, "", logits(9, 5), labels(9))
    assert list(found) == ["split", "loss", "accuracy", "correct", "count", "per_class"]
    assert list(found["per_class"]["a"]) == ["accuracy", "correct", "count"]


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    assert set(evaluate(tmp_path, "", logits(30, 5), labels(30), ())["per_class"]) == set("0123")


def test_each_label_counts_where_a_sample_has_several(tmp_path: Path) -> None:
    """And those that are ignored do not."""
    output, targets = logits(12, 5, 3), labels(12, 3)
    targets[::2, 1:] = -7
    found = evaluate(tmp_path, "loss: {args: {ignore_index: -7}}\nmetrics: [accuracy, top2, macro_f1]", output, targets)
    counted = targets != -7
    said = output.argmax(dim=1)[counted]
    assert found["count"] == int(counted.sum())
    assert found["accuracy"] == metrics.accuracy_score(targets[counted], said)
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(targets[counted], said, average="macro"), rel=1e-12)


def test_what_is_not_a_number_is_never_a_hit(tmp_path: Path) -> None:
    output = torch.full((9, 5), float("nan"))
    found = evaluate(tmp_path, "metrics: [accuracy, top3]", output, torch.full((9,), 2))
    assert (found["loss"], found["top3"]) == (None, 0.0)


@pytest.mark.parametrize(
    ("text", "output", "targets", "message"),
    [
        ("metrics: [top6]", logits(9, 5), labels(9), "metric top6: the output has 5 classes only"),
        ("", logits(9, 4), labels(9, high=3), "the output has 4 classes, and the data have 5"),
        ("loss: mse", logits(9, 5), logits(9, 3), r"loss mse: the output is float32 \[2, 5\] and the target float32"),
        ("loss: mse\nmetrics: [accuracy]", logits(9, 1), logits(9), r"metric accuracy: .* it needs logits"),
        ("task: multilabel", logits(9, 5), labels(9), "loss bce_with_logits: .* it needs numbers of one shape"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    tmp_path: Path, text: str, output: Tensor, targets: Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(tmp_path, text, output, targets)


@pytest.mark.parametrize("name", ["accuracy", "per_class", "top2", "macro_f1", "confusion_matrix"])
@pytest.mark.parametrize("label", [-1, 5, -100])
def test_a_label_out_of_range_is_named_whatever_the_loss(tmp_path: Path, name: str, label: int) -> None:
    (tmp_path / "own.py").write_text("def f(output, target):\n    return output.square().mean()\n")
    targets = torch.tensor([*[0] * 8, label])
    with pytest.raises(DataError, match=f"metric .*: there are labels from {min(label, 0)} to {max(label, 0)}"):
        evaluate(tmp_path, f"loss: 'own.py:f'\nmetrics: [{name}]", logits(9, 5), targets)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_metrics_of_multilabel(tmp_path: Path, dtype: torch.dtype) -> None:
    output, targets = logits(40, 5) + 0.5, labels(40, 5, high=2).to(dtype)
    targets[:, 4] = 0
    said, true = (output > 0).numpy(), targets.bool().numpy()
    text = "task: multilabel\nmetrics: [accuracy, exact_match, macro_f1, micro_f1, per_class]"
    found = evaluate(tmp_path, text, output, targets)
    assert found["accuracy"] == pytest.approx((said == true).mean(), rel=1e-12)
    assert found["exact_match"] == metrics.accuracy_score(true, said)
    for average in ("macro", "micro"):
        expected = metrics.f1_score(true, said, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected, rel=1e-12)
    scores = metrics.f1_score(true, said, average=None, zero_division=0)
    assert [row["f1"] for row in found["per_class"].values()] == pytest.approx(scores)
