"""DistributedDataParallel in a group of one process: what it leaves where it is."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dist_train.distributed.ddp import DDPReduction
from dist_train.distributed.world import World
from dist_train.execution.compile import CompiledModel

SHAPE = (1, 6, 6)


@pytest.fixture
def world() -> Iterator[World]:
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=30))
    yield World(backend="gloo")
    dist.destroy_process_group()


def test_what_is_compiled_stays_where_it_was_compiled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor compiles for the alignment of the parameters' memory, so that none may move afterwards."""
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5))
    at_compilation: list[list[int]] = []

    def compile_and_note(module: nn.Module, **_: object) -> nn.Module:
        at_compilation.append(addresses(network))
        return module

    monkeypatch.setattr(torch, "compile", compile_and_note)
    model = CompiledModel(network, "default")
    reduction = DDPReduction(model, network, world, lambda model: model(torch.zeros(2, *SHAPE)).sum())
    for _ in range(3):
        reduction.begin(stop_requested=False)
        loss = reduction.record_loss(reduction.model(torch.randn(4, *SHAPE)).sum(), has_samples=True)
        loss.backward()  # type: ignore[no-untyped-call]
        reduction.finish()
        assert [addresses(network)] == at_compilation


def addresses(network: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]


def test_all_buffers_travel_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(dist, "_broadcast_coalesced", lambda _, tensors, *__: calls.append(len(tensors)))
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(4))
    world.broadcast_(list(network.buffers()))
    world.broadcast_([])
    assert calls == [6]
