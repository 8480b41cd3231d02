"""The order of the training samples in each epoch: a function of the seed, drawn before it is needed."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from itertools import islice
from threading import Thread

import torch
from torch import Tensor

from dist_train import seeds
from dist_train.system.openmp import compute_alone

LONG = 2**20
"""Samples from which on the first batches do not wait for the whole order: so many take 5 to 20 ms."""
LONGEST_BEGINNING = 2**15
"""Numbers of an order that are drawn without the rest, at most: so many take 10 to 20 ms."""
_DRAWN_OTHERWISE = (2**32 - 1) // 20
"""Samples from which on `torch.randperm` takes 64 bits for each exchange, and not 32."""


class Orders:
    """The order of `length` samples in each epoch, a permutation drawn from (seed, epoch) alone.

    An order that is expected is drawn by a thread, which takes a fifth of a second for ten million samples. Of a `LONG`
    one the first `LONGEST_BEGINNING` numbers do not wait for its end. `close` does.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        self._seed = seed
        # Half the memory, where that holds the numbers; the permutation is the same.
        self._dtype = torch.int32 if length < 2**31 else torch.int64
        self._epoch, self._order = -1, torch.empty(0, dtype=self._dtype)
        self._ahead: dict[int, _Drawing] = {}
        self._begun = (-1, self._order)
        """An epoch and the beginning of its order, while the whole is drawn."""

    def of(self, epoch: int, count: int) -> Tensor:
        """The first `count` numbers of an order at least, or all [N]: int32 or int64.

        Raises:
            Exception: what drawing it has raised on the thread.
            RuntimeError: this torch draws otherwise than `beginning`, of which some was used.
        """
        if epoch != self._epoch:
            expected = self._ahead.get(epoch)
            if expected and not expected.is_done and self._may_begin(count):
                return self._beginning(epoch, count)
            order = expected.awaited() if expected else self._drawn(epoch)
            # Only now: a signal may have ended the wait, and then `close` has a thread to wait for.
            self._ahead.pop(epoch, None)
            self._check_beginning(epoch, order)
            self._epoch, self._order = epoch, order
        return self._order

    def expect(self, epoch: int) -> None:
        """Say that the order of this epoch is needed soon; not heard while another one is being drawn."""
        is_free = all(drawing.is_done for drawing in self._ahead.values())
        if epoch != self._epoch and epoch not in self._ahead and is_free:
            self._ahead[epoch] = _Drawing(lambda: self._drawn(epoch))

    def close(self) -> None:
        """Wait for the end of a thread; may be called again."""
        for drawing in self._ahead.values():
            drawing.join()

    def _drawn(self, epoch: int) -> Tensor:
        return torch.randperm(self._length, generator=self._generator(epoch), dtype=self._dtype)

    def _generator(self, epoch: int) -> torch.Generator:
        return seeds.generator(self._seed, "order", epoch)

    def _may_begin(self, count: int) -> bool:
        return count <= LONGEST_BEGINNING and LONG <= self._length < _DRAWN_OTHERWISE and _is_as_torch_draws()

    def _beginning(self, epoch: int, count: int) -> Tensor:
        """The first `count` numbers at least; each time twice as many, so that few are drawn again."""
        begun, numbers = self._begun
        if begun != epoch or len(numbers) < count:
            count = min(max(count, 2 * len(numbers)), LONGEST_BEGINNING)
            self._begun = epoch, beginning(self._length, self._generator(epoch), count, self._dtype)
        return self._begun[1]

    def _check_beginning(self, epoch: int, order: Tensor) -> None:
        begun, numbers = self._begun
        if begun == epoch and not torch.equal(numbers, order[: len(numbers)]):
            raise RuntimeError(
                f"torch {torch.__version__} draws an order otherwise than its beginning was drawn, and the first steps "
                "of this epoch had other samples. Go on from a checkpoint before it with another version of torch"
            )
        self._begun = -1, torch.empty(0, dtype=self._dtype)


def beginning(length: int, generator: torch.Generator, count: int, dtype: torch.dtype) -> Tensor:
    """The first numbers of `torch.randperm(length, generator=generator, dtype=dtype)`, [count], without the rest.

    Torch shuffles from the front (Durstenfeld, "Algorithm 235: Random permutation", CACM 1964; `randperm_cpu`), so that
    the first numbers stand after as many exchanges.

    Args:
        length: more than `count`, and less than (2**32 - 1) // 20.
    """
    pairs = torch.empty(-(-count // 2), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    draws = torch.stack((pairs >> 32, pairs), dim=1).bitwise_and_(2**32 - 1).flatten().tolist()
    moved: dict[int, int] = {}  # what an exchange has put somewhere, by place
    numbers = []
    for place, draw in enumerate(islice(draws, count)):
        other = place + draw % (length - place)
        numbers.append(moved.get(other, other))
        moved[other] = moved.pop(place, place)
    return torch.tensor(numbers, dtype=dtype)


@cache
def _is_as_torch_draws() -> bool:
    """Whether this torch shuffles as `beginning` does; if not, the whole order is waited for."""
    one, other = (torch.Generator().manual_seed(1) for _ in range(2))
    whole = torch.randperm(9999, generator=one, dtype=torch.int32)
    return torch.equal(beginning(9999, other, 99, torch.int32), whole[:99])


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

    @property
    def is_done(self) -> bool:
        """Whether the order need not be waited for."""
        return self._order.done()

    def awaited(self) -> Tensor:
        """The order; raises what drawing it has raised."""
        order = self._order.result()
        self.join()
        return order
