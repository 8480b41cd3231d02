"""Snapshots: independent of what they were taken from, on the GPU where it has room, and copied to pinned memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dist_train.checkpoint import snapshot
from dist_train.checkpoint.snapshot import copy_to_host, take_snapshot

GPU = torch.device("cuda", 1)


def content(device: torch.device | str) -> dict[str, Any]:
    images = torch.ones(2, 3, 4, 4, device=device).to(memory_format=torch.channels_last)
    return {"model.pt": {"weight": images}, "training.pt": {"state": [{"step": torch.ones((), device=device)}], "n": 3}}


def tensors_of(files: dict[str, Any]) -> list[Tensor]:
    return [files["model.pt"]["weight"], files["training.pt"]["state"][0]["step"]]


def test_a_snapshot_keeps_values_and_memory_format() -> None:
    files = content("cpu")
    taken = take_snapshot(files)
    for tensor in tensors_of(files):
        tensor.zero_()
    assert all(bool((tensor == 1).all()) for tensor in tensors_of(taken))
    assert tensors_of(taken)[0].is_contiguous(memory_format=torch.channels_last)
    assert taken["training.pt"]["n"] == 3
    assert copy_to_host(taken) is taken


@pytest.mark.parametrize(("spare", "device"), [(10**6, "cuda"), (100, "cpu")])
def test_a_gpu_keeps_its_snapshot_if_there_is_room(monkeypatch: pytest.MonkeyPatch, spare: int, device: str) -> None:
    monkeypatch.setattr(snapshot, "device_bytes", {GPU: spare}.__getitem__)
    with FakeTensorMode():
        taken = take_snapshot(content(GPU))
    assert {tensor.device.type for tensor in tensors_of(taken)} == {device}


def test_a_gpus_snapshot_is_copied_by_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            assert device == GPU

        def wait_stream(self, other: object) -> None:
            calls.append(f"wait for {other}")

        def __enter__(self) -> None:
            calls.append("enter")

        def __exit__(self, *_: object) -> None:
            calls.append("exit")

    class Event:
        def __init__(self, blocking: bool) -> None:
            assert blocking, "or the thread would take a core while it waits"

        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("synchronize")

    empty_like = torch.empty_like

    def pinned(tensor: Tensor, device: str, pin_memory: bool) -> Tensor:
        assert pin_memory
        calls.append("pinned")
        return empty_like(tensor, device=device)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: f"the steps on {device}")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    with FakeTensorMode():
        files = content(GPU)
        monkeypatch.setattr(torch, "empty_like", pinned)
        copied = copy_to_host(files)
    assert {tensor.device.type for tensor in tensors_of(copied)} == {"cpu"}
    assert tensors_of(copied)[0].is_contiguous(memory_format=torch.channels_last)
    assert calls == ["wait for the steps on cuda:1", "enter", "pinned", "pinned", "record", "exit", "synchronize"]
