"""A start imports what its run uses and nothing else: every package here costs as much as all the rest of a start."""

import json
from pathlib import Path

import pytest

from tests.conftest import Python, Torchrun

# torch's compiler and what it brings, and what only some data sets and networks need.
NEVER = {
    *("torch._dynamo", "torch._inductor", "sympy", "triton", "torchvision", "sklearn", "scipy", "pandas", "PIL"),
    *("tensorboard", "google.protobuf", "torch.utils.tensorboard", "torch.distributed.tensor"),
    *("torch.distributed.checkpoint", "torch.distributed.fsdp", "rich"),
}
SETTINGS = (
    *("data.limit_train=64", "data.limit_test=20", "data.global_batch=16", "train.max_steps=2", "eval.every_epochs=0"),
    *("log.every=1", "distributed.backend=gloo", "distributed.threads=1"),
)
RECIPES = ("configs/digits.yaml", "optim.name=sgd optim.momentum=0.9 train.max_grad_norm=1.0", "model.name=resnet18")


@pytest.fixture(scope="module")
def cached(python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the digits have been decoded, which takes what a start from then on does not."""
    directory = tmp_path_factory.mktemp("imports")
    trained(python("-m", "dist_train", *command(directory / "decoded", directory), env={}))
    return directory


def command(run: Path, directory: Path, *more: str) -> tuple[str, ...]:
    return ("configs/digits.yaml", *SETTINGS, f"run.dir={run}", f"data.cache={directory / 'cache'}", *more)


def trained(done: object) -> None:
    assert getattr(done, "returncode") == 0, getattr(done, "stderr")
