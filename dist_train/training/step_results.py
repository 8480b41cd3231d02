"""What the host learns of each step, and when."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

LAG = 2
"""Steps after which a GPU's numbers are read: the copy is done by then, and the next step is already queued."""


class StepResult(NamedTuple):
    """One finished step, as every rank knows it."""

    step: int
    """Finished optimizer steps, this one included."""
    lr: float
    samples: Tensor
    """int64 [count], numbers of the samples in the files' training split."""
    loss_sum: float
    """Sum of the losses over the global batch."""
    stops: float
    """How many ranks want to stop."""
    grad_norm: float | None


class StepResults:
    """Gives the numbers of a step back on the host: at once on a CPU, on a GPU `LAG` steps later.

    So that no step waits for a GPU; and that all ranks know the same at the same step, which they need to stop
    together.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._waiting: deque[tuple[StepResult, Tensor, torch.cuda.Event]] = deque()

    def add(
        self, step: int, lr: float, samples: Tensor, note: Tensor, grad_norm: Tensor | None
    ) -> Iterator[StepResult]:
        """Take the numbers of a step; gives those that are known now.

        Args:
            note: float [3], of `parallel`.
            grad_norm: float [], or None.
        """
        if self._on_gpu:
            self._send(StepResult(step, lr, samples, 0.0, 0.0, None), note, grad_norm)
            while len(self._waiting) > LAG:
                yield self._receive()
            return
        loss_sum, stops, _ = note.tolist()
        yield StepResult(step, lr, samples, loss_sum, stops, None if grad_norm is None else grad_norm.item())

    def rest(self) -> Iterator[StepResult]:
        """Wait for all that is not known yet; every rank has to call this after the same step."""
        while self._waiting:
            yield self._receive()

    def _send(self, fact: StepResult, note: Tensor, grad_norm: Tensor | None) -> None:
        numbers = note if grad_norm is None else torch.cat((note, grad_norm.to(note.dtype).view(1)))
        on_host = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        self._waiting.append((fact, on_host, done))

    def _receive(self) -> StepResult:
        fact, on_host, done = self._waiting.popleft()
        done.synchronize()
        loss_sum, stops, _, *norm = on_host.tolist()
        return fact._replace(loss_sum=loss_sum, stops=stops, grad_norm=norm[0] if norm else None)
