"""A compiled network: another control flow at each step, and a missing C++ compiler, are refused."""

import shutil
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo
from torch import nn

from dist_train.errors import ConfigError
from dist_train.execution.compile import CompiledModel

CPU = torch.device("cpu")
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
    model = CompiledModel(network, "reduce-overhead", CPU)
    images = torch.randn(3, 4)
    torch.testing.assert_close(model(images), network(images))
    assert [id(parameter) for parameter in model.parameters()] == [id(each) for each in network.parameters()]
    assert without_kernels == ["reduce-overhead"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_network_that_needs_another_graph_at_each_step_is_refused() -> None:
    """By default torch would continue without a graph: a resumed run would do so at another step."""
    model = CompiledModel(nn.Linear(4, 2), "default", CPU)
    with pytest.raises(ConfigError, match=r"train.compile: the network needs another graph .*compiled 3 of them"):
        list(map(model, [torch.randn(size, 4) for size in range(2, 9)]))


def test_a_missing_cpp_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on a CPU, and there is no no-such-compiler"):
        CompiledModel(nn.Linear(1, 1), "default", CPU)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/g++")
    CompiledModel(nn.Linear(1, 1), "default", CPU)
    assert torch._dynamo.config.fail_on_recompile_limit_hit
