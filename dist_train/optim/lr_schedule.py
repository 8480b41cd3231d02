"""The learning rates as pure functions of the step, so that a resumed run needs no scheduler's state."""

import math

from torch.optim import Optimizer

from dist_train.optim.own import load_schedule
from dist_train.own_code.reference import parse_reference
from dist_train.settings.schema.optim import Optim


class LrSchedule:
    """The schedules of a run, for all groups of its optimizer."""

    def __init__(self, config: Optim, steps_per_epoch: int, total_steps: int) -> None:
        """Raises ConfigError and OwnCodeError: a schedule of the user is no function, or returns no factor."""
        self.config, self.steps_per_epoch, self.total_steps = config, steps_per_epoch, total_steps
        used = {config.schedule, *(group.schedule for group in config.groups if group.schedule)}
        self._own = {name: load_schedule(name, total_steps) for name in sorted(used) if parse_reference(name)}

    def set_rates(self, optimizer: Optimizer, step: int, factor: float = 1.0) -> float:
        """Set the learning rate of each group for the 0-based `step`; return that of parameters without a group.

        Args:
            factor: the factor of `optim.plateau`.
        """
        for group in optimizer.param_groups:
            group["lr"] = self._reduce(self.lr_at(step, group["initial_lr"], group["schedule"]), factor)
        return self._reduce(self.lr_at(step, self.config.lr, self.config.schedule), factor)

    def _reduce(self, lr: float, factor: float) -> float:
        plateau = self.config.plateau
        return max(lr * factor, min(lr, plateau.min_lr)) if plateau else lr

    def lr_at(self, step: int, peak: float, schedule: str) -> float:
        """Return the learning rate of the 0-based `step` of a schedule that has `peak` as its highest."""
        config = self.config
        warmup = round(config.warmup_epochs * self.steps_per_epoch)
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if schedule == "step":
            return rise * peak * config.gamma ** (step // self._count_steps(config.step_size))
        if schedule == "multistep":
            passed = sum(step >= round(milestone * self.steps_per_epoch) for milestone in config.milestones)
            return rise * peak * config.gamma**passed
        if schedule == "onecycle":
            return self._one_cycle(step, peak)
        if schedule == "constant":
            return rise * peak
        if own := self._own.get(schedule):
            return rise * peak * own(step)
        return rise * self._fall(step, warmup, peak, schedule)

    def _fall(self, step: int, warmup: int, peak: float, schedule: str) -> float:
        """Return the learning rate of a schedule that falls to `optim.eta_min`."""
        config = self.config
        end = config.eta_min
        if peak != config.lr:
            end *= peak / config.lr if config.lr else 0.0
        done, steps = max(0, step - warmup), max(1, self.total_steps - warmup)
        if schedule == "cosine":
            if config.restart_epochs is not None:
                done, steps = self._find_cycle(done, self._count_steps(config.restart_epochs))
            return _anneal(peak, end, done / steps)
        if schedule == "trapezoid":
            fall = max(1, round(config.decay_fraction * self.total_steps))
            return end + (peak - end) * min(1.0, (self.total_steps - step) / fall)
        power = config.power if schedule == "polynomial" else 1.0
        left = 1 - min(1.0, done / steps)
        return end + (peak - end) * math.pow(left, power)

    def _count_steps(self, epochs: float) -> int:
        return max(1, round(epochs * self.steps_per_epoch))

    def _find_cycle(self, done: int, length: int) -> tuple[int, int]:
        """Return the steps made in the cycle of a schedule that restarts, and the steps of that cycle."""
        while self.config.restart_factor > 1 and done >= length:
            done, length = done - length, length * self.config.restart_factor
        return done % length, length

    def _one_cycle(self, step: int, peak: float) -> float:
        """Smith and Topin, arXiv:1708.07120, in the two cosine phases of `torch.optim.lr_scheduler.OneCycleLR`."""
        config = self.config
        start = peak / config.div_factor
        top = config.pct_start * self.total_steps - 1
        if step <= top:
            return _anneal(start, peak, step / top if top > 0 else 1.0)
        progress = (step - top) / max(1.0, self.total_steps - 1 - top)
        return _anneal(peak, start / config.final_div_factor, progress)


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
