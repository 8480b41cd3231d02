"""What the exception that ends a rank means."""

import pytest

from dist_train.diagnostics.failure import classify, format_error
from dist_train.errors import ConfigError, DataError, NonFiniteError


class DistBackendError(RuntimeError):
    """As torch names its own."""


class DistNetworkError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    ("error", "phase", "kind"),
    [
        (ValueError("bad thing"), "forward", "exception"),
        (RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"), "backward", "victim"),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), "backward", "victim"),
        (DistNetworkError("rank 1(2), pid 7, has exited"), "backward", "victim"),
        (DistBackendError("NCCL error: remote process exited or there was a network error"), "backward", "victim"),
        (ConnectionResetError("Connection reset by peer"), "data", "exception"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "backward", "loader"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "data", "loader"),
        (RuntimeError("Expected to have finished reduction in the prior iteration"), "forward", "exception"),
        (DataError("x.png: can't be read"), "data", "loader"),
        (DataError("x.png: can't be read"), "start", "refused"),
        (ConfigError("optim.lr: no"), "save", "refused"),
        (NonFiniteError("loss nan"), "update", "non_finite"),
        (KeyboardInterrupt(), "forward", "interrupted"),
    ],
)
def test_an_exception_is_classified_by_its_type_and_text(error: BaseException, phase: str, kind: str) -> None:
    assert classify(error, phase) == kind


def test_an_error_is_format_error() -> None:
    assert format_error(ValueError("bad\n  thing")) == "ValueError: bad thing"
    assert format_error(ValueError()) == "ValueError"
    assert format_error(DataError("x.png: can't be read")) == "x.png: can't be read"
    worker = ValueError(
        "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n  File\nValueError: no"
    )
    assert format_error(worker) == "ValueError: Caught ValueError in DataLoader worker process 0. ValueError: no"
