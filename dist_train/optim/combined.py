"""Several optimizers, each with its own parameters, as one."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer


class CombinedOptimizer(Optimizer):
    """Optimizers that share one state and make their steps together, such as Muon and that of the other parameters."""

    def __init__(self, parts: list[Optimizer]) -> None:
        super().__init__([{"params": group["params"]} for part in parts for group in part.param_groups], {})
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]
        self._share()
        self._steps = [unwrapped_step(part) for part in parts]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for step in self._steps:
            step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Give each part its groups and the common state."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]


def list_parts(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers of a CombinedOptimizer; any other optimizer alone."""
    return optimizer.parts if isinstance(optimizer, CombinedOptimizer) else [optimizer]


def unwrapped_step(optimizer: Optimizer) -> Callable[[], object]:
    """Return the optimizer's step without torch's wrappers for hooks and profiling.

    Nothing here uses them; they import torch's compiler, which takes as long as torch itself.
    """
    return torch.no_grad()(partial(inspect.unwrap(type(optimizer).step), optimizer))
