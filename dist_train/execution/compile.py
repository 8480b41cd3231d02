"""`torch.compile` of the network (`train.compile: model`)."""

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit

from dist_train.errors import ConfigError
from dist_train.execution.gpu import ALIGNMENT
from dist_train.nest import Nest


class CompiledModel(nn.Module):
    """A network whose forward and backward passes are compiled, one graph for each batch size.

    Fixed shapes: a graph for all sizes would depend on which size came first, and so on where a run was resumed. A
    module around the network, because `Module.compile` changes nothing in torch 2.11.
    """

    def __init__(self, network: nn.Module, mode: str) -> None:
        """
        Args:
            network: with its parameters where they will stay: torch compiles for the alignment of their memory.
        """
        super().__init__()
        _check_alignment(network.parameters())
        # By default torch stops compiling after some graphs. A resumed run counts from zero again and would get other
        # bits. Graphs of an earlier training in this process do not count.
        torch._dynamo.reset()
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        self._compiled: Callable[[Nest], Nest] = torch.compile(network, dynamic=False, mode=mode)

    def forward(self, inputs: Nest) -> Nest:
        """Call the network; raises ConfigError if it needs another graph from step to step."""
        try:
            return self._compiled(inputs)
        except FailOnRecompileLimitHit as error:
            raise ConfigError(
                "train.compile: the network needs another graph from step to step, and torch has compiled "
                f"{torch._dynamo.config.recompile_limit} of them; set train.compile=off"
            ) from error


def check_compiler(device: torch.device) -> None:
    """Check that torch will find its compilers: for C++ on a CPU; for C on a GPU, where Triton builds its launchers.
    Raises:
        ConfigError: one is missing.
    """
    on_gpu = device.type == "cuda"
    language, variable = ("C", "CC") if on_gpu else ("C++", "CXX")
    usual = ("gcc", "clang") if on_gpu else ("clang++",) if sys.platform == "darwin" else ("g++",)
    given = shlex.split(os.environ.get(variable, ""))[:1]
    place = "a GPU" if on_gpu else "a CPU"
    if not any(map(shutil.which, given or usual)):
        missing = " or ".join(given or usual)
        raise ConfigError(
            f"train.compile needs a {language} compiler on {place}, and there is no {missing}; install it, name "
            f"another in the variable {variable}, or set train.compile=off"
        )
    if on_gpu and not importlib.util.find_spec("triton"):
        raise ConfigError("train.compile needs the package triton on a GPU; install it, or set train.compile=off")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if on_gpu and not (headers.exists() or "CPATH" in os.environ):
        raise ConfigError(
            f"train.compile needs Python's headers on a GPU, and there is no {headers}; install python3-dev, or set "
            "train.compile=off"
        )


def _check_alignment(tensors: Iterable[Tensor]) -> None:
    misaligned = [tuple(tensor.shape) for tensor in tensors if tensor.data_ptr() % ALIGNMENT]
    if misaligned:
        raise AssertionError(f"tensors of the shapes {misaligned} do not begin at multiples of {ALIGNMENT} bytes")
