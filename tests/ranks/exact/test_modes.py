"""Every precision and way of compiling trains, resumes with the same bits, and differs from plain fp32 no more than it
should."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from dist_train.monitoring.metrics import read_lines
from tests.conftest import weights_hash
from tests.ranks.conftest import DoJobs

pytestmark = pytest.mark.slow

CONFIG = """
data: {name: synthetic, num_train: 72, num_test: 40, global_batch: 24}
model: {name: mnist_cnn}
optim: {name: adam, lr: 0.002, schedule: onecycle}
train: {max_steps: 6}
checkpoint: {every_steps: 2, keep_last: 9}
log: {every_steps: 1, tensorboard: false}
"""
# What a step does beside the update; and batches of two sizes.
ALL = ["train.ema_decay=0.9", "train.max_grad_norm=0.5", "optim.weight_decay=0.01", "data.global_batch=20"]
MODES = {
    "fp32": [],
    "bf16": ["train.precision=bf16"],
    "fp16": ["train.precision=fp16", "train.max_grad_norm=5.0"],
    "all": ALL,
    "compiled": ["train.compile=model", *ALL],
    "contiguous": ["train.channels_last=off"],
    "deterministic": ["run.deterministic=true"],
}


def jobs(directory: Path, modes: list[str]) -> list[dict[str, Any]]:
    """Train in each mode, and again from the checkpoint of step 4."""
    (directory / "config.yaml").write_text(CONFIG)
    todo: list[dict[str, Any]] = []
    for mode in modes:
        command = [str(directory / "config.yaml"), f"data.cache={directory / 'cache'}", *MODES[mode]]
        resumed = directory / f"{mode}-resumed"
        todo.append({"train": [*command, f"run.dir={directory / mode}"]})
        todo.append({"cut": str(directory / mode), "to": str(resumed), "step": 4})
        todo.append({"train": [*command, f"run.dir={resumed}"]})
    return todo


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_lines(run / "metrics.jsonl") if line["kind"] == "train"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, do_jobs: DoJobs) -> Path:
    directory = tmp_path_factory.mktemp("modes")
    do_jobs(1, jobs(directory, list(MODES)), timeout=400)
    return directory


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_resumes_with_the_same_bits(alone: Path, mode: str) -> None:
    assert weights_hash(alone / f"{mode}-resumed") == weights_hash(alone / mode)
    assert losses(alone / f"{mode}-resumed") == losses(alone / mode)


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [("bf16", 2e-2), ("fp16", 5e-3), ("contiguous", 1e-4), ("deterministic", 1e-6)],
)
def test_each_mode_stays_close_to_fp32(alone: Path, mode: str, tolerance: float) -> None:
    assert losses(alone / mode) == pytest.approx(losses(alone / "fp32"), rel=tolerance)
    if mode in ("bf16", "fp16", "contiguous"):
        assert weights_hash(alone / mode) != weights_hash(alone / "fp32"), "the setting changed nothing at all"


def test_a_compiled_network_trains_like_the_same_one_in_eager_mode(alone: Path) -> None:
    assert losses(alone / "compiled") == pytest.approx(losses(alone / "all"), rel=1e-4)


@pytest.mark.parametrize(("mode", "graphs"), [("fp32", 0), ("fp16", 0), ("compiled", 2)])  # two sizes of batches
def test_one_graph_is_compiled_for_each_size_of_a_batch(alone: Path, mode: str, graphs: int) -> None:
    assert int((alone / mode / "compiled_graphs").read_text()) == graphs


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_two_ranks_compile(tmp_path: Path, do_jobs: DoJobs) -> None:
    do_jobs(2, jobs(tmp_path, ["all", "compiled"]), timeout=400)
    assert weights_hash(tmp_path / "compiled-resumed") == weights_hash(tmp_path / "compiled")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "all"), rel=1e-4)
