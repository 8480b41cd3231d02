"""Provisional."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StopRequested(Exception):  # noqa: N818 (no fault)
    """A stop was asked for while waiting."""


class Stop:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.on_early: Callable[[], None] | None = None

    def limit(self, minutes: float) -> None: ...

    def begun(self) -> None: ...

    @contextmanager
    def waiting(self) -> Iterator[None]:
        if self.reason:
            raise StopRequested
        yield
