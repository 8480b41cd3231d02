"""Copies of a training's tensors, taken between two steps, so that they can be hashed and written in a thread."""

from typing import Any

import torch
from torch import Tensor

from dist_train.checkpoint.serialization import convert_tensors
from dist_train.data.memory import device_bytes


def take_snapshot(content: dict[str, Any]) -> dict[str, Any]:
    """Copy all tensors in nested dictionaries and lists; the next step may change the originals.

    A GPU's tensors are copied on the GPU, which takes a fraction of a millisecond and does not wait for it; or to the
    host if the GPU has no memory left that the training does not use. The memory format stays: another takes longer.
    """
    on_gpu = _list_gpu_tensors(content)
    has_room = not on_gpu or device_bytes(on_gpu[0].device) > sum(tensor.nbytes for tensor in on_gpu)
    copied: dict[str, Any] = convert_tensors(_clone if has_room else _copy_to_cpu, content)
    return copied


def copy_to_host(content: dict[str, Any]) -> dict[str, Any]:
    """Return a snapshot with its tensors on the CPU.

    A GPU's tensors are copied by a stream of their own into pinned memory, so that no step waits for the copy. torch
    keeps that memory for the next snapshot when it is freed.
    """
    on_gpu = _list_gpu_tensors(content)
    if not on_gpu:
        return content
    device = on_gpu[0].device
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        copied: dict[str, Any] = convert_tensors(_copy_to_pinned, content)
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record()
    done.synchronize()
    return copied


def _list_gpu_tensors(content: dict[str, Any]) -> list[Tensor]:
    """The tensors in nested dictionaries and lists that are on a GPU; a rank has one."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        if tensor.device.type == "cuda":
            found.append(tensor)
        return tensor

    convert_tensors(collect, content)
    return found


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _copy_to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _copy_to_pinned(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
