"""Memory is used again once no tensor is in it, and never before."""

import os

import pytest
import torch
from torch import Tensor

from dist_train.data.batch_memory import LEAST, BatchMemory

SHAPE = torch.Size([8, 3, 128, 128])
CPU = torch.device("cpu")


def allocate(memory: BatchMemory, shape: torch.Size = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    return memory.allocate(shape, dtype, CPU, torch.contiguous_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8, 3, 128, 128), (1, 1, 1024, 1024), (2, 3, 1, 1), (0, 3, 8, 8), (1024, 1, 32, 33)])
def test_a_tensor_is_like_one_of_torch(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    memory = BatchMemory()
    for _ in range(2):
        found = memory.allocate(torch.Size(shape), dtype, CPU, memory_format)
        expected = torch.empty(shape, dtype=dtype, memory_format=memory_format)
        assert (found.shape, found.dtype, found.stride()) == (expected.shape, dtype, expected.stride())
        assert torch.equal(found.fill_(3), expected.fill_(3))


def test_memory_is_used_again() -> None:
    memory = BatchMemory()
    places = set()
    for _ in range(6):
        batch = allocate(memory)  # while the one before is still there
        places.add(batch.data_ptr())
    assert len(places) == 2


KEPT = {
    "a view": lambda batch: batch[3:, 1],
    "detached": lambda batch: batch.detach(),
    "numpy": lambda batch: batch.numpy(),
    "a graph": lambda batch: batch * torch.ones((), requires_grad=True),
    "a storage": lambda batch: batch.untyped_storage(),
}
"""What may outlive a batch."""


@pytest.mark.parametrize("name", KEPT)
def test_what_is_still_used_is_not_overwritten(name: str) -> None:
    memory = BatchMemory()
    kept = [KEPT[name](allocate(memory).fill_(1)) for _ in range(4)]
    for _ in range(4):
        allocate(memory).fill_(2)
    assert len(memory._used) == 5
    if name != "a storage":
        assert all((values == 1).all() for values in kept)
    kept.clear()
    allocate(memory)
    assert len(memory._used) == 1


def test_memory_that_is_too_small_is_returned() -> None:
    memory = BatchMemory()
    for images in (8, 16, 8):
        allocate(memory, torch.Size([images, *SHAPE[1:]]))
    assert [len(block) for block, _ in memory._used] == [16 * 3 * 128 * 128 * 4]
    assert memory._free == []


def test_small_tensors_are_left_to_torch() -> None:
    memory = BatchMemory()
    allocate(memory, torch.Size([1, 1, 1, LEAST // 4 - 1]))
    assert memory._used == []
    allocate(memory, torch.Size([1, 1, 1, LEAST // 4]))
    assert len(memory._used) == 1


def test_sizes_that_alternate_do_not_add_up() -> None:
    memory = BatchMemory()
    for images in [8, 3, 16, 5, 8] * 40:  # an evaluation keeps two at a time, and its last batch is smaller
        kept = [allocate(memory, torch.Size([images, *SHAPE[1:]])) for _ in range(2)]
        del kept
        assert len(memory._used) + len(memory._free) <= 2


def test_a_process_that_is_forked_keeps_its_values() -> None:
    memory = BatchMemory()
    batch = allocate(memory).fill_(1)
    asked, ask = os.pipe()
    if (child := os.fork()) == 0:
        os.read(asked, 1)
        os._exit(bool(batch.numpy().min() != 1 or batch.numpy().max() != 1))
    place = batch.data_ptr()
    del batch
    assert allocate(memory).fill_(2).data_ptr() == place
    os.write(ask, b"1")
    assert os.waitpid(child, 0)[1] == 0
