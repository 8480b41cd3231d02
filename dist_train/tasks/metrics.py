"""Find the metrics of an evaluation by their names and references."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.own_code.load import add_line_number, call, check_call, load
from dist_train.own_code.reference import parse_reference
from dist_train.settings.tasks import TABLES, name_metric
from dist_train.tasks.classification import Accuracy, Confusion, MultilabelSums, TopK
from dist_train.tasks.own_metric import FunctionSums, ObjectSums, check_states, is_metric_object
from dist_train.tasks.regression import RegressionSums
from dist_train.tasks.sums import Format, Sums


@dataclass(frozen=True)
class Metric:
    """A metric of an evaluation."""

    name: str
    open_sums: Callable[[Format], Sums]
    """Returns sums of zero for one pass over a split."""
    is_own: bool = False
    """Whether it is the user's code."""

    @property
    def is_number(self) -> bool:
        """Whether its result is a single number, which may be monitored."""
        return self.name not in TABLES


def build_metric(text: str, task: str, world: World, ignored: int | None = None) -> Metric:
    """Return the metric of this name or reference.

    Args:
        task: the setting `task`, which decides what a name means.
        ignored: the label that is not counted.

    Raises:
        ConfigError: the task has none of this name, or the reference leads to no metric.
        OwnCodeError: the user's code fails.
    """
    if parse_reference(text):
        return make_own_metric(name_metric(text), text, load(text, "metrics"), world)
    if task == "regression":
        return Metric(text, partial(RegressionSums, name=text))
    if task == "multilabel":
        return Metric(text, partial(MultilabelSums, name=text))
    if task != "classification":
        raise ConfigError(f"metrics has {text}, which the task {task} does not name; give metrics by their references")
    if text in ("accuracy", "per_class"):
        return Metric(text, partial(Accuracy, ignored=ignored, has_total=text == "accuracy"))
    if text.startswith("top"):
        return Metric(text, partial(TopK, most=int(text.removeprefix("top")), ignored=ignored))
    return Metric(text, partial(Confusion, name=text, ignored=ignored))


def make_own_metric(name: str, reference: str, found: Any, world: World) -> Metric:
    """Return the user's metric: a function, a class of metric objects, or such an object."""
    if isinstance(found, type):
        found = call(reference, "metrics", None)
    if is_metric_object(found):
        check_states(found, reference)
        return Metric(name, partial(ObjectSums, name=name, reference=reference, metric=found, rank=world.rank), True)
    if not callable(found):
        raise ConfigError(
            f"metrics has {reference}, which is a {type(found).__name__}; a metric is a function f(output, target), or "
            "an object of torchmetrics"
        )
    check_call(found, f"metric {reference}", "output", "target")
    where = add_line_number(reference, found)
    return Metric(name, partial(FunctionSums, name=name, reference=where, function=found, rank=world.rank), True)
