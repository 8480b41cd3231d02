"""Samples a second of one process, on a GPU or a CPU: ours, plain PyTorch, and the bare step on one fixed batch.

Each takes the time every few steps; its rate is the median of the rates between two readings. Images are random, in the
shapes of the workload, so that no files are needed.
"""

import gc
import importlib.util
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.compare import builders
from benchmarks.compare.workloads import Workload
from benchmarks.processes import ROOT
from benchmarks.rounds import Spread
from dist_train.distributed.world import open_world
from dist_train.monitoring.metrics import read_lines
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config
from dist_train.system.stop_signals import Stop
from dist_train.train import train

TYPES = {"bf16": torch.bfloat16}
MIN_RATES = 3
"""Fewest rates that a median is taken of."""
SIZES = {"mnist": 60_000, "cifar10": 50_000}
"""Images in the training split of each data set."""


@dataclass(frozen=True)
class Setup:
    """Device, folder and duration of a measurement."""

    device: torch.device
    folder: Path
    seconds: float
    """Shortest time that the readings of one measurement cover."""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the GPU has finished all work; nothing on a CPU."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def memory(self) -> int | None:
        """Peak bytes of tensors on the GPU since `reset`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.on_gpu else None

    def reset(self) -> None:
        """Free the memory of earlier measurements, and reset the peak."""
        gc.collect()
        self.wait()  # also initialises CUDA, which the reset needs
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def load_settings(workload: Workload, setup: Setup, *overrides: str) -> Config:
    """Settings of a workload on random images, with a new run directory."""
    size = SIZES[workload.dataset] if setup.on_gpu else 2048
    own = [] if setup.on_gpu else ["distributed.backend=gloo"]
    return load_config(
        ROOT / "configs" / workload.recipe,
        [
            *workload.overrides, "data.name=synthetic", f"data.shape={list(builders.SHAPES[workload.dataset])}",
            f"data.num_train={size}", "data.num_test=256", f"data.cache={setup.folder / 'cache'}",
            "train.epochs=1000", "eval.every_epochs=0", "log.progress=off", *tensorboard_setting(), *own,
            f"run.dir={tempfile.mkdtemp(dir=setup.folder)}", *overrides,
        ],
    )  # fmt: skip


def tensorboard_setting() -> list[str]:
    """The setting that a machine without TensorBoard needs, if it has none."""
    return [] if importlib.util.find_spec("tensorboard") else ["log.tensorboard=false"]


def measure_ours(workload: Workload, setup: Setup, *overrides: str) -> Spread:
    """Samples a second of an ordinary run, with its log, ledger and checkpoints."""
    config = load_settings(workload, setup, f"log.every_steps={log_every_steps(workload, setup)}", *overrides)
    stop, metrics = Stop(), Path(config.run.dir) / "metrics.jsonl"
    with _stop_when(lambda: _are_enough(_read(metrics), setup.seconds), stop):
        train(config, open_world(config.distributed, {}), stop)
    return _spread(_read(metrics), workload.batch)


@contextmanager
def _stop_when(is_enough: Callable[[], bool], stop: Stop) -> Iterator[None]:
    """Stop the run from a thread as soon as there are enough readings."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            if is_enough():
                stop.reason = "the end of the measurement"
                return

    thread = threading.Thread(target=watch, name="enough")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _read(metrics: Path) -> list[tuple[int, float]]:
    """Steps and times of the lines of kind `train`, without the first, before which kernels are loaded."""
    lines = [line for line in read_lines(metrics) if line["kind"] == "train"]
    return [(line["step"], line["time"]) for line in lines[1:]]


def measure_plain(workload: Workload, setup: Setup, workers: int, dtype: torch.dtype | None = None) -> Spread:
    """Samples a second of PyTorch's MNIST example over a DataLoader, with torch's defaults for TF32.

    Args:
        dtype: of autocast; None: fp32.
    """
    _configure_gpu(convolutions=True, products=False, benchmark=False)
    loader = DataLoader(
        Images(workload), workload.batch, shuffle=True, num_workers=workers, pin_memory=setup.on_gpu, drop_last=True
    )
    network = builders.build_network(workload).to(setup.device).train()
    optimizer = builders.build_optimizer(workload, network.parameters())
    pause = log_every_steps(workload, setup)
    readings: list[tuple[int, float]] = []
    batches = _endless(loader)
    step = 0
    while not _are_enough(readings[1:], setup.seconds):
        data, target = next(batches)
        data, target = data.to(setup.device), target.to(setup.device)
        optimizer.zero_grad()
        with torch.autocast(setup.device.type, dtype, enabled=dtype is not None):
            loss = functional.cross_entropy(network(data), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        if step % pause == 0:
            loss.item()
            readings.append((step, time.perf_counter()))
    return _spread(readings[1:], workload.batch)


def _endless(loader: "DataLoader[Any]") -> Iterator[Any]:
    while True:
        yield from loader


class Images(TorchDataset[tuple[Tensor, int]]):
    """Random images, loaded and transformed one by one as in torchvision's MNIST and CIFAR10."""

    def __init__(self, workload: Workload) -> None:
        channels, height, width = builders.SHAPES[workload.dataset]
        size = (4096, height, width) if channels == 1 else (4096, height, width, channels)
        self._images = torch.randint(0, 256, size, dtype=torch.uint8).numpy()
        self._length = SIZES[workload.dataset]
        self._transform = builders.build_transform(workload)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        image = Image.fromarray(self._images[index % len(self._images)])
        return self._transform(image), index % 10


def measure_bare(workload: Workload, setup: Setup, precision: str) -> Spread:
    """Samples a second of the bare step with a fused update, in the memory format that ours uses in this precision.

    cuDNN times its kernels, as in ours.
    """
    _configure_gpu(convolutions=precision == "tf32", products=precision == "tf32", benchmark=True)
    is_channels_last = not setup.on_gpu or precision != "fp32"
    memory_format = torch.channels_last if is_channels_last else torch.contiguous_format
    network = builders.build_network(workload).train()
    network = network.to(device=setup.device, memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = builders.build_optimizer(workload, network.parameters(), fused=True)
    images, labels = builders.random_batch(workload, workload.batch)
    images, labels = images.to(setup.device, memory_format=memory_format), labels.to(setup.device)
    dtype = TYPES.get(precision)
    pause = log_every_steps(workload, setup)
    readings: list[tuple[int, float]] = []
    while not _are_enough(readings[1:], setup.seconds / 2):
        for _ in range(pause):
            optimizer.zero_grad()
            with torch.autocast(setup.device.type, dtype, enabled=dtype is not None):
                loss = functional.cross_entropy(network(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        setup.wait()
        readings.append(((len(readings) + 1) * pause, time.perf_counter()))
    return _spread(readings[1:], workload.batch)


def log_every_steps(workload: Workload, setup: Setup) -> int:
    """Steps between two readings."""
    return max(10, 2 * workload.log_every_steps) if setup.on_gpu else (1 if workload.name == "resnet" else 4)


def _configure_gpu(convolutions: bool, products: bool, benchmark: bool) -> None:
    """Set where TF32 is used, by the interface that `dist_train` uses too, and whether cuDNN times its kernels.

    torch raises an error if both of its interfaces for TF32 are used.
    """
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.benchmark = benchmark


def _are_enough(readings: Sequence[tuple[int, float]], seconds: float) -> bool:
    return len(readings) > MIN_RATES and readings[-1][1] - readings[0][1] >= seconds


def _spread(readings: Sequence[tuple[int, float]], batch: int) -> Spread:
    """Samples a second between each reading and the one before.

    Args:
        readings: finished steps, and seconds.
        batch: samples a step.
    """
    return Spread.of((after[0] - before[0]) * batch / (after[1] - before[1]) for before, after in pairwise(readings))


def worker_counts() -> tuple[int, ...]:
    """Numbers of DataLoader workers to try for plain PyTorch."""
    available = len(os.sched_getaffinity(0))
    return tuple(sorted({0, min(4, available), min(8, available)})) if available > 2 else (0, available)
