"""The user's task: an object with a loss and metrics.

class Segmentation:
    metrics = {"iou": mean_iou}              # functions f(output, target), or objects of torchmetrics

    def loss(self, output, target):          # a mean over the batch, or one value a sample
        return ...
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.own_code.load import add_line_number, call, check_call, load
from dist_train.tasks.losses import Loss, OwnLoss, build_loss
from dist_train.tasks.metrics import Metric, make_own_metric


class OwnTask(NamedTuple):
    """The loss and the metrics of the user's task."""

    loss: Loss | None
    metrics: dict[str, Metric]


def open_own_task(reference: str, classes: tuple[str, ...], world: World) -> OwnTask:
    """Return the parts of the task that a reference names; a class gets `classes` if it has such a parameter.

    Raises:
        ConfigError: it is no task.
        OwnCodeError: the user's code fails.
    """
    found: Any = load(reference, "task")
    if isinstance(found, type):
        found = call(reference, "task", None, given={"classes": classes})
    loss, metrics = getattr(found, "loss", None), getattr(found, "metrics", {})
    if isinstance(loss, str):
        opened: Loss | None = build_loss(loss, {}, world)
    elif loss is None or callable(loss):
        if loss is not None:
            check_call(loss, f"task {reference}: its loss", "output", "target")
        opened = OwnLoss(add_line_number(reference, loss), loss, world.rank) if loss else None
    else:
        raise ConfigError(f"task {reference}: its loss is a {type(loss).__name__}, and no function f(output, target)")
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        raise ConfigError(
            f"task {reference}: its metrics are a {type(metrics).__name__}; give a dict of functions by name"
        )
    if opened is None and not metrics:
        raise ConfigError(
            f"task {reference}: has neither loss(output, target) nor metrics; a task is a class with them"
        )
    return OwnTask(opened, {name: make_own_metric(name, reference, each, world) for name, each in metrics.items()})
