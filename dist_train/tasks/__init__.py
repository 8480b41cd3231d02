"""What a network learns: a loss, and the metrics of an evaluation.

task            a loss and metrics, as a step and an evaluation call them
losses          the built-in losses, and the user's
metrics         finds metrics by their names
sums            the sums of a metric, which ranks add up
classification  metrics of classification and multilabel
regression      metrics of regression
own_metric      the user's metric: a function or an object of torchmetrics
own_task        the user's task: a loss and metrics
answers         predictions of single samples, as classes with probabilities or as numbers
output          the field of a network's output that they get, and messages about one that does not fit

To add a loss: a line in `losses.BUILT_IN` and its arguments in `settings/tasks.py`. To add a metric: a class, a line in
`build_metric`, its name in `settings/tasks.py`.
"""

from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.settings.schema import Config
from dist_train.settings.tasks import TASKS, find_ignored_label, find_loss, find_monitor
from dist_train.tasks.losses import Loss, build_loss
from dist_train.tasks.metrics import Metric, build_metric
from dist_train.tasks.own_task import open_own_task
from dist_train.tasks.task import Evaluation, EvaluationSums, Task

__all__ = ["Evaluation", "EvaluationSums", "Task", "build_task"]


def build_task(
    config: Config, classes: tuple[str, ...], world: World | None = None, counts_confusion: bool = False
) -> Task:
    """Return the task of the settings.

    Args:
        classes: names of the classes in the data; () if the data name none.
        counts_confusion: whether evaluations of accuracy also count a confusion matrix, to be drawn.

    Raises:
        ConfigError: what a reference names is no loss or metric, or no evaluation has the number to monitor.
        OwnCodeError: the user's code fails.
    """
    world = world or World()
    loss, metrics = _open_parts(config, classes, world)
    drawn = None
    if counts_confusion and config.task == "classification" and "accuracy" in (metric.name for metric in metrics):
        drawn = build_metric("confusion_matrix", config.task, world, find_ignored_label(config))
    task = Task(loss, metrics, config.loss.output, classes, world, config.shards, drawn)
    if twice := next((name for name in task.names if task.names.count(name) > 1), None):
        raise ConfigError(f"metrics: two numbers of an evaluation are called {twice}")
    if (monitor := find_monitor(config).name) not in task.names:
        raise ConfigError(f"checkpoint.monitor is {monitor}; an evaluation has {', '.join(task.names)}")
    return task


def _open_parts(config: Config, classes: tuple[str, ...], world: World) -> tuple[Loss, list[Metric]]:
    name, wanted = find_loss(config), config.metrics
    if config.task in TASKS:
        assert name is not None  # noqa: S101
        names = TASKS[config.task].metrics if wanted is None else wanted
        metrics = [build_metric(text, config.task, world, find_ignored_label(config)) for text in names]
        return build_loss(name, config.loss.args, world), metrics
    own = open_own_task(config.task, classes, world)
    loss = own.loss if name is None else build_loss(name, config.loss.args, world)
    if loss is None:
        raise ConfigError(f"task {config.task}: it has no loss(output, target), and loss.name is not set; give one")
    chosen = own.metrics if wanted is None else {text: own.metrics.get(text) for text in wanted}
    return loss, [metric or build_metric(text, config.task, world) for text, metric in chosen.items()]
