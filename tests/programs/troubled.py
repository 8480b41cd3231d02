"""`python -m dist_train`, or with `--nproc` its agent, in which a rank meets trouble at a moment that a test chooses.

DIST_TRAIN_TEST_TROUBLE: a JSON object {"at": a name of MOMENTS, "step": finished steps, "rank": which, -1 being
all, "signals": what the rank sends itself, by name}; without it nothing happens.

The network has a batch normalisation, whose statistics must be those of an undisturbed run.
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dist_train import __main__
from dist_train.checkpoint.store import Store
from dist_train.data.batches import AHEAD, TrainBatches
from dist_train.data.loader import _SamplesDataset
from dist_train.distributed import world
from dist_train.elastic import agent
from dist_train.system import stop_signals
from dist_train.system.exit import leave, run_guarded
from dist_train.training import setup
from tests.modules import evaluate, train
from tests.programs.normalised import put_batch_normalisation_first

FOR_EVER = 1000  # seconds
TROUBLE: dict[str, Any] = json.loads(os.environ.get("DIST_TRAIN_TEST_TROUBLE", "{}"))


def is_mine() -> bool:
    return TROUBLE["rank"] in (-1, int(os.environ.get("RANK", "0")))


def send() -> None:
    for name in TROUBLE["signals"]:
        os.kill(os.getpid(), signal.Signals[name])


def send_soon() -> None:
    threading.Timer(0.5, send).start()


def in_step(original: Callable[..., Any]) -> Callable[..., Any]:
    def step(state: Any, reduction: Any, task: Any, batch: Any, *others: Any, **named: Any) -> Any:
        if batch.step == TROUBLE["step"] and is_mine():
            send()
        return original(state, reduction, task, batch, *others, **named)

    return step


def in_evaluation(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One of the batches that are evaluated in this start, counted by `step`."""

    def logits(*arguments: Any) -> Tensor:
        TROUBLE["seen"] = TROUBLE.get("seen", -1) + 1
        if TROUBLE["seen"] == TROUBLE["step"] and is_mine():
            send()
        return original(*arguments)

    return logits


def in_data_of_an_evaluation(original: Callable[..., Any]) -> Callable[..., Any]:
    """Data that come when a stop has been requested."""

    def batches(*arguments: Any) -> Iterator[Any]:
        if is_mine():
            send_soon()
            wait_for_stop()
        yield from original(*arguments)

    return batches


def in_data(original: Callable[..., Any]) -> Callable[..., Any]:
    """Data that come when a stop has been requested."""

    def take(batches: TrainBatches) -> Any:
        TROUBLE["taken"] = TROUBLE.get("taken", -1) + 1
        if TROUBLE["taken"] == TROUBLE["step"] and is_mine():
            send_soon()
            wait_for_stop()
        return original(batches)

    return take


def lost_before(original: Callable[..., Any]) -> Callable[..., Any]:
    """A rank is killed once; after the restart, its data come when a stop has been requested."""

    def take(batches: TrainBatches) -> Any:
        TROUBLE["taken"] = TROUBLE.get("taken", -1) + 1
        if TROUBLE["taken"] == TROUBLE["step"] and is_mine():
            if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            wait_for_stop()
        return original(batches)

    return take


def wait_for_stop() -> None:
    while stop_signals._installed[-1].reason is None:
        time.sleep(0.05)


def in_worker(original: Callable[..., Any]) -> Callable[..., Any]:
    """Data that never come, from a worker of the loader, which reads one batch at a time here."""
    AHEAD["cpu"] = 0

    def read(reported: Any, positions: list[int]) -> Any:
        TROUBLE["read"] = TROUBLE.get("read", -1) + 1
        if TROUBLE["read"] == TROUBLE["step"] and is_mine():
            threading.Timer(2.0, os.kill, (os.getppid(), signal.Signals[TROUBLE["signals"][0]])).start()
            time.sleep(FOR_EVER)
        return original(reported, positions)

    return read


def on_a_full_disk(original: Callable[..., Any]) -> Callable[..., Any]:
    """A stop after which no file takes more than some bytes."""

    def step(state: Any, reduction: Any, task: Any, batch: Any, *others: Any, **named: Any) -> Any:
        if batch.step == TROUBLE["step"] and is_mine():
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            send()
        return original(state, reduction, task, batch, *others, **named)

    return step


def in_save(original: Callable[..., None]) -> Callable[..., None]:
    """A first signal while a checkpoint is being written, and more."""

    def write(store: Store, step: int, *arguments: Any) -> None:
        if step == TROUBLE["step"]:
            for _ in range(3):
                send()
                time.sleep(0.1)
        original(store, step, *arguments)

    return write


def in_joining(original: Callable[..., Any]) -> Callable[..., Any]:
    """One rank waits for the others in `init_process_group`."""

    def join(*arguments: Any, **named: Any) -> Any:
        if not is_mine():
            time.sleep(FOR_EVER)
        send_soon()
        return original(*arguments, **named)

    return join


def in_opening(original: Callable[..., Any]) -> Callable[..., Any]:
    """The run is claimed, and its files are being opened."""

    def open_(*arguments: Any) -> Any:
        send()
        time.sleep(FOR_EVER)
        return original(*arguments)

    return open_


def in_compiling(original: Callable[..., Any]) -> Callable[..., Any]:
    """In C, where no handler of Python runs."""

    def start(*arguments: Any) -> Any:
        if is_mine():
            send_soon()
            while True:
                ctypes.CDLL(None).sleep(FOR_EVER)
        return original(*arguments)

    return start


def nan_images(original: Callable[..., Any]) -> Callable[..., Any]:
    """In the first of a rank's samples, so that of several passes only the first is spoiled."""

    def step(state: Any, reduction: Any, task: Any, batch: Any, *others: Any, **named: Any) -> Any:
        if batch.step == TROUBLE["step"] and is_mine():
            batch.shards[0].passes[0].inputs[:1] = math.nan
        return original(state, reduction, task, batch, *others, **named)

    return step


def nan_gradient(original: Callable[..., Any]) -> Callable[..., Any]:
    def step(state: Any, reduction: Any, task: Any, batch: Any, *others: Any, **named: Any) -> Any:
        if batch.step == TROUBLE["step"] and is_mine():
            next(state.network.parameters()).register_hook(lambda gradient: gradient * math.nan)
        return original(state, reduction, task, batch, *others, **named)

    return step


class Unused(nn.Module):
    """A network with a layer that it does not call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.spare = network, nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # type: ignore[no-any-return]


def unused(original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda *arguments: Unused(original(*arguments))


MOMENTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "step": (train, "train_step", in_step),
    "evaluation": (evaluate, "compute_output", in_evaluation),
    "data of an evaluation": (evaluate, "eval_batches", in_data_of_an_evaluation),
    "data": (TrainBatches, "__next__", in_data),
    "data after a restart": (TrainBatches, "__next__", lost_before),
    "full disk": (train, "train_step", on_a_full_disk),
    "worker": (_SamplesDataset, "__getitems__", in_worker),
    "save": (Store, "_write", in_save),
    "opening": (setup, "_open_saver", in_opening),
    "joining": (world, "open_world", in_joining),
    "compiling": (setup, "_build_reduction", in_compiling),
    "nan images": (train, "train_step", nan_images),
    "nan gradient": (train, "train_step", nan_gradient),
    "unused": (setup, "build_model", unused),
}


def replace(owner: Any, name: str, what: Callable[..., Any]) -> None:
    setattr(owner, name, what(getattr(owner, name)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with put_batch_normalisation_first():
        if TROUBLE:
            replace(*MOMENTS[TROUBLE["at"]])
        if "--nproc" in sys.argv:
            leave(run_guarded(agent.main))
        __main__.start()
