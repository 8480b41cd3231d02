"""The order of the training samples in each epoch: a function of the seed, drawn before it is needed."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread

import torch
from torch import Tensor

from dist_train import seeds
from dist_train.threads import compute_alone


class Orders:
    """The order of `length` samples in each epoch, a permutation drawn from (seed, epoch) alone.

    What is expected is drawn by a thread meanwhile: ten million samples take half a second. `close` ends it.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        self._seed = seed
        # Half the memory, where that holds the numbers; the permutation is the same.
        self._dtype = torch.int32 if length < 2**31 else torch.int64
        self._epoch, self._order = -1, torch.empty(0, dtype=self._dtype)
        self._ahead: dict[int, _Drawing] = {}

    def of(self, epoch: int) -> Tensor:
        """int32 or int64 [N]; raises what drawing it has raised on the thread."""
        if epoch != self._epoch:
            expected = self._ahead.get(epoch)
            order = expected.awaited() if expected else self._drawn(epoch)
            # Only now: a signal may have ended the wait, and then `close` has a thread to wait for.
            self._ahead.pop(epoch, None)
            self._epoch, self._order = epoch, order
        return self._order

    def expect(self, epoch: int) -> None:
        """Say that the order of this epoch is needed soon."""
        if epoch != self._epoch and epoch not in self._ahead:
            self._ahead[epoch] = _Drawing(lambda: self._drawn(epoch))

    def close(self) -> None:
        """Wait for the end of a thread; may be called again."""
        for drawing in self._ahead.values():
            drawing.join()

    def _drawn(self, epoch: int) -> Tensor:
        return torch.randperm(self._length, generator=seeds.generator(self._seed, "order", epoch), dtype=self._dtype)


class _Drawing(Thread):
    """An order that is being drawn."""

    def __init__(self, draw: Callable[[], Tensor]) -> None:
        super().__init__(name="order", daemon=True)
        self._order: Future[Tensor] = Future()
        self._draw = draw
        self.start()

    def run(self) -> None:
        """What the thread does."""
        compute_alone()
        try:
            self._order.set_result(self._draw())
        except BaseException as error:  # it is for who needs the order
            self._order.set_exception(error)

    def awaited(self) -> Tensor:
        """The order; raises what drawing it has raised."""
        order = self._order.result()
        self.join()
        return order
