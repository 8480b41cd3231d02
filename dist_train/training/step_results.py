"""Per-step scalars on the host, copied with a delay on GPUs to avoid a sync."""

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

LAG = 2
"""Steps after which a GPU's numbers are read: the copy is done by then, and the next step is already queued."""


class StepResult(NamedTuple):
    """One finished step, the same on every rank."""

    step: int
    """Finished optimizer steps, this one included."""
    lr: float
    samples: Tensor
    """int64 [count], numbers of the samples in the files' training split."""
    loss_sum: float
    """Sum of the losses over the global batch."""
    stop_requests: float
    """How many ranks request a stop."""
    grad_norm: float | None


class StepResults:
    """Returns the scalars of each step on the host: at once on a CPU, `LAG` steps later on a GPU.

    So no step waits for a GPU, and all ranks know the same at the same step, which they need to stop together.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._pending: deque[tuple[StepResult, Tensor, torch.cuda.Event]] = deque()

    def add(self, step: int, lr: float, samples: Tensor, scalars: Tensor, grad_norm: Tensor | None) -> list[StepResult]:
        """Take the scalars of a step, and return the results that are available now.

        Args:
            scalars: float [2], as `distributed.reduction` returns them.
            grad_norm: float [], or None.
        """
        if self._on_gpu:
            self._start_copy(StepResult(step, lr, samples, 0.0, 0.0, None), scalars, grad_norm)
            return [self._finish_copy() for _ in range(len(self._pending) - LAG)]
        loss_sum, stop_requests = scalars.tolist()
        norm = None if grad_norm is None else grad_norm.item()
        return [StepResult(step, lr, samples, loss_sum, stop_requests, norm)]

    def flush(self) -> list[StepResult]:
        """Wait for all results that are pending; every rank has to call this after the same step."""
        return [self._finish_copy() for _ in range(len(self._pending))]

    def _start_copy(self, result: StepResult, scalars: Tensor, grad_norm: Tensor | None) -> None:
        numbers = scalars if grad_norm is None else torch.cat((scalars, grad_norm.to(scalars.dtype).view(1)))
        on_host = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        self._pending.append((result, on_host, done))

    def _finish_copy(self) -> StepResult:
        result, on_host, done = self._pending.popleft()
        done.synchronize()
        loss_sum, stop_requests, *norm = on_host.tolist()
        return result._replace(loss_sum=loss_sum, stop_requests=stop_requests, grad_norm=norm[0] if norm else None)
