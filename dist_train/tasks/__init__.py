"""What is learned: a loss, and what an evaluation counts. To add a task: a module, and a line in `build_task`."""

from dist_train.settings.schema import Config
from dist_train.tasks.classification import Classification
from dist_train.tasks.task import Evaluation, EvaluationCounts, Task

__all__ = ["Evaluation", "EvaluationCounts", "Task", "build_task"]


def build_task(config: Config, classes: tuple[str, ...]) -> Task:
    """Return the task of the settings; `classes`: names of the classes in the data."""
    return Classification(config.loss, classes)
