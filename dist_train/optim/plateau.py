"""Reduce learning rates and end a run early, as functions of its evaluations."""

from collections.abc import Iterator, Sequence

from dist_train.settings.schema import EarlyStopping
from dist_train.settings.schema.optim import Plateau


def find_lr_factor(values: Sequence[float], config: Plateau | None, higher_is_better: bool) -> float:
    """Return the factor on all learning rates after evaluations with these values, oldest first."""
    if config is None:
        return 1.0
    reductions = waiting = cooldown = 0
    for is_better in _find_improvements(values, config.min_delta, higher_is_better):
        waiting = 0 if is_better or cooldown else waiting + 1
        cooldown = max(0, cooldown - 1)
        if waiting > config.patience:
            reductions, waiting, cooldown = reductions + 1, 0, config.cooldown
    return config.factor**reductions


def ends_early(values: Sequence[float], config: EarlyStopping | None, higher_is_better: bool) -> bool:
    """Whether a run ends after evaluations with these values, oldest first."""
    if config is None:
        return False
    waiting = 0
    for is_better in _find_improvements(values, config.min_delta, higher_is_better):
        waiting = 0 if is_better else waiting + 1
    return waiting >= config.patience


def _find_improvements(values: Sequence[float], min_delta: float, higher_is_better: bool) -> Iterator[bool]:
    """Yield for each value whether it is better than all before it; NaN never is."""
    best = float("-inf")
    for value in values if higher_is_better else [-value for value in values]:
        is_better = value > best + min_delta
        best = value if is_better else best
        yield is_better
