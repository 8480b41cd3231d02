"""`torch.compile` of the network (`train.compile: model`)."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit

from dist_train.errors import ConfigError


class CompiledModel(nn.Module):
    """A network whose forward and backward passes are compiled, one graph for each batch size.

    Fixed shapes: a graph for all sizes would depend on which size came first, and so on where a run was resumed. A
    module around the network, because `Module.compile` changes nothing in torch 2.11.
    """

    def __init__(self, network: nn.Module, mode: str, device: torch.device) -> None:
        """Raises ConfigError: torch would find no C++ compiler, which it needs on a CPU."""
        super().__init__()
        _check_cpp_compiler(device)
        # By default torch stops compiling after some graphs. A resumed run counts from zero again and would get other
        # bits. Graphs of an earlier training in this process do not count.
        torch._dynamo.reset()
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        self._compiled: Callable[[Tensor], Any] = torch.compile(network, dynamic=False, mode=mode)

    def forward(self, images: Tensor) -> Tensor:
        """Call the network; raises ConfigError if it needs another graph from step to step."""
        try:
            return self._compiled(images)  # type: ignore[no-any-return]
        except FailOnRecompileLimitHit as error:
            raise ConfigError(
                "train.compile: the network needs another graph from step to step, and torch has compiled "
                f"{torch._dynamo.config.recompile_limit} of them; set train.compile=off"
            ) from error


def _check_cpp_compiler(device: torch.device) -> None:
    usual = "clang++" if sys.platform == "darwin" else "g++"
    compiler, *_ = shlex.split(os.environ.get("CXX", "")) or [usual]
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(
            f"train.compile needs a C++ compiler on a CPU, and there is no {compiler}; install it, name another in the "
            "variable CXX, or set train.compile=off"
        )
