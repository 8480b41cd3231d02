"""Train in the user's process: restore afterwards what the training changes, and join the ranks to one group."""

import atexit
import gc
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from dist_train.distributed.rendezvous import describe_start
from dist_train.distributed.world import World, open_world
from dist_train.errors import WorldError
from dist_train.settings.schema import Config

_LOG = logging.getLogger("dist_train")


@contextmanager
def restored_process() -> Iterator[None]:
    """Restore after the block what a training changes in its process.

    These are torch's settings and generators, those of `random` and NumPy, log handlers, environment variables, cores.
    """
    with ExitStack() as stack:
        for restore in (*_keep_torch(), *_keep_generators(), *_keep_system()):
            stack.callback(restore)
        yield


def _keep_torch() -> Iterator[Callable[[], object]]:
    """Yield functions that restore the settings of torch; reading TF32 raises if the user set it by the new names."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield lambda: torch.set_num_threads(threads)
    yield lambda: torch.set_default_dtype(dtype)
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    yield lambda: torch.use_deterministic_algorithms(is_deterministic, warn_only=warns)
    owners: tuple[tuple[Any, str], ...] = (
        (torch.backends.mkldnn, "enabled"),
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.utils.deterministic, "fill_uninitialized_memory"),
    )
    for owner, name in owners:
        with suppress(RuntimeError):
            yield _keep_attribute(owner, name)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        device = torch.cuda.current_device()
        yield lambda: torch.cuda.set_device(device)


def _keep_attribute(owner: Any, name: str) -> Callable[[], None]:
    value = getattr(owner, name)
    return lambda: setattr(owner, name, value)


def _keep_generators() -> Iterator[Callable[[], object]]:
    own, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    yield lambda: torch.set_rng_state(own)
    yield lambda: random.setstate(python)
    yield lambda: np.random.set_state(numpy)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        of_gpus = torch.cuda.get_rng_state_all()
        yield lambda: torch.cuda.set_rng_state_all(of_gpus)


def _keep_system() -> Iterator[Callable[[], object]]:
    environ, cores = dict(os.environ), os.sched_getaffinity(0)
    handlers, level, propagates = list(_LOG.handlers), _LOG.level, _LOG.propagate

    def restore() -> None:
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update(environ)
        _LOG.handlers, _LOG.propagate = handlers, propagates
        _LOG.setLevel(level)
        if os.sched_getaffinity(0) != cores:
            os.sched_setaffinity(0, cores)

    yield restore


class _Ranks:
    """The ranks that a launcher has started, which the process joins once."""

    def __init__(self, config: Config) -> None:
        self.is_deterministic = config.is_deterministic
        self.world = open_world(config.distributed, about=describe_start(config), deterministic=self.is_deterministic)
        self.has_failed = False

    def check(self, config: Config) -> None:
        """Raise WorldError if another call can't use the group, or another rank makes another call."""
        if self.has_failed or not dist.is_initialized():
            raise WorldError("the ranks have parted after the error of an earlier call: start the script again")
        wanted = config.distributed.backend
        if wanted not in ("auto", self.world.backend):
            raise WorldError(
                f"distributed.backend is {wanted}, but this process has joined its ranks by {self.world.backend} in an "
                "earlier call: use one backend in a script"
            )
        if self.world.backend == "nccl" and config.is_deterministic and not self.is_deterministic:
            raise WorldError(
                "run.deterministic is on, but this process has joined its ranks without it in an earlier call, and "
                "NCCL can't change the order of its sums: begin with the deterministic run"
            )
        self.world.check_equal("settings", describe_start(config))

    def leave(self) -> None:
        """Close the group at the end of the process; after a failure, other ranks would not come to that."""
        gc.collect()  # DDP's reducer keeps the group, and Gloo's threads abort a process that ends before them
        if not self.has_failed:
            self.world.close()


_joined: list[_Ranks] = []


@contextmanager
def joined_ranks(config: Config) -> Iterator[World]:
    """The ranks of the launcher, or a world of one; the group stays open for later calls.

    Raises:
        WorldError: as `open_world`; or the group of an earlier call, or one of the user, is in the way.
    """
    if not _joined:
        if dist.is_available() and dist.is_initialized():
            raise WorldError(
                "a process group is open in this process, and dist_train opens one of its own: call "
                "torch.distributed.destroy_process_group() first"
            )
        ranks = _Ranks(config)
        if ranks.world.backend is None:
            yield ranks.world
            return
        _joined.append(ranks)
        atexit.register(ranks.leave)
    else:
        (ranks,) = _joined
        ranks.check(config)
    try:
        yield ranks.world
    except BaseException:
        ranks.has_failed = True
        raise
