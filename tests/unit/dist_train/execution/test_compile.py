"""A compiled network: another control flow at each step, and a missing C++ compiler, are refused."""

import importlib.util
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch._dynamo
from torch import nn

from dist_train.errors import ConfigError
from dist_train.execution.compile import CompiledModel, check_compiler

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
_compile = torch.compile


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Graphs as torch traces them, without compiled kernels, and the modes that were asked for."""
    modes: list[object] = []

    def trace(network: nn.Module, *, dynamic: bool, mode: str) -> object:
        modes.append(mode)
        return _compile(network, backend="aot_eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", trace)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=False, recompile_limit=3):
        yield modes
    torch._dynamo.reset()


def test_it_is_called_like_the_network_and_has_its_parameters(without_kernels: list[object]) -> None:
    network = nn.Linear(4, 2)
    model = CompiledModel(network, "reduce-overhead")
    images = torch.randn(3, 4)
    torch.testing.assert_close(model(images), network(images))
    assert [id(parameter) for parameter in model.parameters()] == [id(each) for each in network.parameters()]
    assert without_kernels == ["reduce-overhead"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_network_that_needs_another_graph_at_each_step_is_refused() -> None:
    """By default torch would continue without a graph: a resumed run would do so at another step."""
    model = CompiledModel(nn.Linear(4, 2), "default")
    with pytest.raises(ConfigError, match=r"train.compile: the network needs another graph .*compiled 3 of them"):
        list(map(model, [torch.randn(size, 4) for size in range(2, 9)]))


def compilers(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    """Let only these programs be on the PATH."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in present else None)


@pytest.mark.parametrize(
    ("device", "variable", "present", "missing"),
    [(CPU, "CXX", "g++", "g++"), (GPU, "CC", "gcc", "gcc or clang"), (GPU, "CC", "clang", "gcc or clang")],
)
def test_a_missing_compiler_is_named(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, variable: str, present: str, missing: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.delenv(variable, raising=False)
    compilers(monkeypatch)
    with pytest.raises(ConfigError, match=rf"compiler on a \wPU, and there is no {re.escape(missing)}; install it"):
        check_compiler(device)
    compilers(monkeypatch, present)
    check_compiler(device)
    monkeypatch.setenv(variable, "other -O2")
    with pytest.raises(ConfigError, match=rf"there is no other; install it, name another in the variable {variable},"):
        check_compiler(device)
    compilers(monkeypatch, "other")
    check_compiler(device)


def test_a_gpu_needs_triton_and_pythons_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compilers(monkeypatch, "gcc")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the package triton on a GPU"):
        check_compiler(GPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no .*Python\.h; install python3-dev"):
        check_compiler(GPU)


def test_parameters_that_are_not_aligned_are_never_compiled() -> None:
    network = nn.Linear(4, 2)
    network.weight.data = torch.zeros(9)[1:].view(2, 4)
    with pytest.raises(AssertionError, match=r"shapes \[\(2, 4\)\] do not begin at multiples of 16 bytes"):
        CompiledModel(network, "default")
