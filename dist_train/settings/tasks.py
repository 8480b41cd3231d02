"""Names of tasks, losses and metrics, the arguments of losses, and the number that selects the best evaluation."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated

from pydantic import Field

from dist_train.eval_line import Monitor, choose_name, find_mode
from dist_train.own_code.reference import parse_reference
from dist_train.settings.schema import Config
from dist_train.settings.schema.section import Contradiction, NonNegativeFloat, PositiveFloat, Section


class NoArguments(Section):
    """A loss without arguments."""


class NLLArguments(Section):
    """Arguments of `nll`."""

    weight: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] | None = None
    """A factor for each class; the loss is divided by the sum of the factors, as in torch, over the global batch."""
    ignore_index: int | None = None
    """A label that is not counted in loss and metrics. Default: none."""


class CrossEntropyArguments(NLLArguments):
    """Arguments of `cross_entropy`."""

    label_smoothing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a label that is spread evenly over all classes; not in evaluations."""


class HuberArguments(Section):
    """Arguments of `huber`."""

    delta: PositiveFloat = 1.0
    """Distance up to which the loss is a square."""


class BCEArguments(Section):
    """Arguments of `bce_with_logits`."""

    weight: NonNegativeFloat | tuple[NonNegativeFloat, ...] | None = None
    """A factor for each class, or one for all; the loss is not divided by it."""
    pos_weight: NonNegativeFloat | tuple[NonNegativeFloat, ...] | None = None
    """A factor for the labels that are 1, of each class or of all."""


LOSS_ARGUMENTS: dict[str, type[Section]] = {
    "cross_entropy": CrossEntropyArguments,
    "nll": NLLArguments,
    "mse": NoArguments,
    "mae": NoArguments,
    "huber": HuberArguments,
    "half_sse": NoArguments,
    "bce_with_logits": BCEArguments,
}


@dataclass(frozen=True)
class TaskNames:
    """The loss and the metrics of a task."""

    loss: str
    metrics: tuple[str, ...]
    """Metrics of an evaluation by default."""
    more_metrics: tuple[str, ...] = ()
    """Further metrics; `top<N>` stands for `top5` and the like."""

    def has(self, name: str) -> bool:
        """Whether a metric is one of this task."""
        return name in (*self.metrics, *self.more_metrics) or (
            "top<N>" in self.more_metrics and re.fullmatch(r"top[1-9]\d{0,5}", name) is not None
        )


TASKS = {
    "classification": TaskNames(
        "cross_entropy", ("accuracy",), ("top<N>", "per_class", "macro_f1", "confusion_matrix")
    ),
    "regression": TaskNames("mse", ("rmse", "mae", "r2")),
    "multilabel": TaskNames("bce_with_logits", ("accuracy", "exact_match", "macro_f1", "per_class"), ("micro_f1",)),
}
RESERVED = ("kind", "split", "step", "epoch", "time", "loss", "count", "correct")
"""Keys that every eval line has; a metric can't have one of these names."""
TABLES = ("per_class", "confusion_matrix")
"""Metrics that are no single number."""


def find_loss(config: Config) -> str | None:
    """Return the name of the loss; None if the user's task has it."""
    if config.loss.name is not None:
        return config.loss.name
    return TASKS[config.task].loss if config.task in TASKS else None


def find_ignored_label(config: Config) -> int | None:
    """Return the label that is not counted in loss and metrics, if there is one."""
    return config.loss.args.get("ignore_index") if find_loss(config) in ("cross_entropy", "nll") else None


def name_metric(text: str) -> str:
    """Return what a metric is called in a result: of a reference, the last name."""
    reference = parse_reference(text)
    return reference.name.rpartition(".")[2] if reference else text


def list_names(config: Config) -> tuple[str, ...] | None:
    """Return the names of the numbers of an evaluation; None for the user's task, which decides them."""
    if config.task not in TASKS:
        return None
    metrics = TASKS[config.task].metrics if config.metrics is None else config.metrics
    return ("loss", *(name_metric(text) for text in metrics if text not in TABLES))


def find_monitor(config: Config) -> Monitor:
    """Return by which number the best evaluation is found."""
    name = config.checkpoint.monitor or choose_name(list_names(config) or ())
    return Monitor(name, config.checkpoint.mode or find_mode(name))


def describe_number(config: Config, name: str) -> str:
    """Return a text that is equal for two starts if they compute the number `name` in the same way."""
    if name == "loss":
        arguments = {key: value for key, value in config.loss.args.items() if key != "label_smoothing"}
        return f"{_omit_folder(find_loss(config) or config.task)} {json.dumps(arguments, sort_keys=True)}"
    return _omit_folder(next((text for text in config.metrics or () if name_metric(text) == name), name))


def _omit_folder(text: str) -> str:
    """Return a name or reference without the folder of its file, which may have moved."""
    reference = parse_reference(text)
    return f"{reference.file.name}:{reference.name}" if reference and reference.file else text


def find_task_contradictions(config: Config) -> Iterator[Contradiction]:
    """Find metrics that the task does not have, and a number to monitor that no evaluation has."""
    if config.task not in TASKS:
        return
    task = TASKS[config.task]
    for text in config.metrics or ():
        if parse_reference(text) is None and not task.has(text):
            known = (*task.metrics, *task.more_metrics)
            close = [name for name in get_close_matches(text, known, 1) if "<" not in name]
            hint = f" (did you mean {close[0]}?)" if close else ""
            yield Contradiction(
                "metrics",
                f"has {text}{hint}; task {config.task} has {', '.join(known)}, or give your own f(output, target) by "
                "its reference",
            )
    named = [name_metric(text) for text in config.metrics or ()]
    if twice := sorted({name for name in named if named.count(name) > 1 or name in RESERVED}):
        yield Contradiction("metrics", f"has {twice[0]} more than once, or as every evaluation has it: rename it")
    names, monitor = list_names(config) or (), config.checkpoint.monitor
    if monitor is not None and monitor not in names:
        yield Contradiction("checkpoint.monitor", f"is {monitor}; an evaluation has {', '.join(names)}")
