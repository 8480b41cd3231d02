"""Settings of tasks, losses and metrics: what is refused, with the line and what to write."""

import inspect
from pathlib import Path

import pytest
from torch.nn import functional

from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config
from dist_train.settings.tasks import LOSS_ARGUMENTS, TASKS, find_loss, find_monitor, list_names


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {{name: synthetic}}\nmodel: {{name: lenet}}\n{text}\n")
    return load_config(path, overrides)


FAULTS = {
    "loss: {args: {label_smothing: 0.1}}":
        "loss.args.label_smothing is not a setting. Did you mean loss.args.label_smoothing?",
    "loss: {args: {label_smoothing: 2}}":
        "loss.args.label_smoothing is 2; it must be a number of at least 0 and at most 1",
    "loss: {args: {weight: []}}": "loss.args.weight is []; it must be a list that is not empty",
    "loss: {args: {weight: [1, -1]}}": "loss.args.weight is [1, -1]; it must be",
    "loss: {args: {delta: 1}}": "loss.args.delta is not a setting",
    "loss: {name: mse, args: {delta: 1}}": "loss.args has delta; mse takes no arguments",
    "loss: {name: huber, args: {delta: 0}}": "loss.args.delta is 0; it must be a number above 0",
    "loss: crossentropy": "loss.name is 'crossentropy'; it must be cross_entropy, mse",
    "loss: {output: 1.5}": "loss.output is 1.5; it must be",
    "task: regresion": "task is 'regresion'; it must be classification, regression, multilabel",
    "metrics: [acuracy]": "metrics has acuracy (did you mean accuracy?); task classification has accuracy, top<N>",
    "metrics: [top0]": "metrics has top0; task classification has accuracy, top<N>",
    "metrics: [rmse]": "metrics has rmse; task classification has accuracy",
    "metrics: [top5, top5]": "metrics has top5 more than once",
    "metrics: ['own.py:loss']": "metrics has loss more than once, or as every evaluation has it: rename it",
    "checkpoint: {monitor: f1}": "checkpoint.monitor is f1; an evaluation has loss, accuracy",
    "checkpoint: {monitor: confusion_matrix}": "checkpoint.monitor is confusion_matrix; an evaluation has loss",
    "checkpoint: {mode: best}": "checkpoint.mode is 'best'; it must be max, min, or null",
}  # fmt: skip


@pytest.mark.parametrize("text", FAULTS)
def test_what_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.py").write_text("def loss(output, target): ...\n")
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, text)
    assert f"config.yaml:3: {FAULTS[text]}" in str(refusal.value)


@pytest.mark.parametrize("name", LOSS_ARGUMENTS)
def test_arguments_of_a_loss_are_those_of_torch(name: str) -> None:
    names = {"mse": "mse_loss", "mae": "l1_loss", "huber": "huber_loss", "nll": "nll_loss", "half_sse": "mse_loss"}
    names |= {"bce_with_logits": "binary_cross_entropy_with_logits", "cross_entropy": "cross_entropy"}
    assert set(LOSS_ARGUMENTS[name].model_fields) <= set(inspect.signature(getattr(functional, names[name])).parameters)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_a_loss_metrics_and_a_number_to_monitor(tmp_path: Path, task: str) -> None:
    config = load(tmp_path, f"task: {task}")
    assert find_loss(config) in LOSS_ARGUMENTS
    assert find_monitor(config).name in (list_names(config) or ())


@pytest.mark.parametrize(
    ("text", "name", "mode"),
    [
        ("", "accuracy", "max"),
        ("metrics: []", "loss", "min"),
        ("task: regression", "loss", "min"),
        ("task: regression\ncheckpoint: {monitor: r2}", "r2", "max"),
        ("task: regression\ncheckpoint: {monitor: rmse, mode: max}", "rmse", "max"),
        ("metrics: [top3]\ncheckpoint: {monitor: top3}", "top3", "max"),
    ],
)
def test_which_number_is_monitored(tmp_path: Path, text: str, name: str, mode: str) -> None:
    assert find_monitor(load(tmp_path, text)) == (name, mode)


def test_a_setting_reaches_into_the_arguments(tmp_path: Path) -> None:
    config = load(tmp_path, "", "loss.args.label_smoothing=0.25", "loss.args.weight=[1, 2]")
    assert config.loss.args == {"label_smoothing": 0.25, "weight": [1, 2]}
