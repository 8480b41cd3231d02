"""Run `python -m dist_train` without a mechanism that no setting turns off, for `benchmarks.single.mechanisms`.

python -m benchmarks.single.without MECHANISM CONFIG [key=value ...]
"""

import importlib
import runpy
import sys
from collections.abc import Callable


def import_dynamo() -> None:
    """Import torch's compiler, as torch itself does at the first step if nothing prevents it."""
    importlib.import_module("torch._dynamo")


def prepare_batches_one_by_one() -> None:
    """Gather, augment and normalise each batch on its own, not several at once."""
    from dist_train.data import batches

    batches.AHEAD["cpu"] = 0


def keep_pooling() -> None:
    """Leave the network's own max-pooling in place."""
    from dist_train.execution import cpu_layers

    cpu_layers.use_fast_cpu_layers = lambda network: None  # noqa: ARG005


WITHOUT: dict[str, Callable[[], None]] = {
    "lazy_dynamo": import_dynamo,
    "cpu_layers": keep_pooling,
    "batches_ahead": prepare_batches_one_by_one,
}

if __name__ == "__main__":
    WITHOUT[sys.argv.pop(1)]()
    runpy.run_module("dist_train", run_name="__main__", alter_sys=True)
