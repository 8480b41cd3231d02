"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler's state."""

import math

from dist_train.settings.schema import Optim


def lr_at(config: Optim, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Return the learning rate of the 0-based `step`."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if config.schedule == "step":
        return rise * config.lr * config.gamma ** (step // max(1, round(config.step_size * steps_per_epoch)))
    if config.schedule == "multistep":
        passed = sum(step >= round(milestone * steps_per_epoch) for milestone in config.milestones)
        return rise * config.lr * config.gamma**passed
    if config.schedule == "cosine":
        progress = max(0, step - warmup) / max(1, total_steps - warmup)
        return rise * _anneal(config.lr, config.eta_min, progress)
    if config.schedule == "onecycle":
        return _one_cycle(config, step, total_steps)
    return rise * config.lr


def _one_cycle(config: Optim, step: int, total_steps: int) -> float:
    """Smith and Topin, arXiv:1708.07120, in the two cosine phases of `torch.optim.lr_scheduler.OneCycleLR`."""
    start = config.lr / config.div_factor
    top = config.pct_start * total_steps - 1
    if step <= top:
        return _anneal(start, config.lr, step / top if top > 0 else 1.0)
    return _anneal(config.lr, start / config.final_div_factor, (step - top) / max(1.0, total_steps - 1 - top))


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
