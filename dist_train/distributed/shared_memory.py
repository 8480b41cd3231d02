"""Sum tensors over the ranks of one machine in shared memory.

Gloo sends through TCP, on one machine as well. That is several times slower than two copies and a sum in memory, and
its threads take cores from the computation.
"""

import ctypes
import errno
import logging
import mmap
import os
import struct
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import DistNetworkError

from dist_train.distributed.world import World
from dist_train.settings.schema import Distributed
from dist_train.system.process import read_process_stat, read_process_state

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 2 * 2**20  # summed at a time: few enough to stay in a cache until the other ranks read them
_BUFFERS = 2
_CACHE_LINE = 64  # bytes from one semaphore to the next: no two ranks write to the same cache line
_OWNER = struct.Struct("<qq")  # pid and start time of the process that created the memory
_CHECK_INTERVAL = 0.25  # seconds of waiting after which a rank checks that the other process is alive


@dataclass(frozen=True)
class _Process:
    """The process of a rank, as `system.process` identifies it."""

    pid: int
    started: int


class SharedMemory:
    """Sums over all ranks of one machine.

    The memory holds a semaphore for each ordered pair of ranks, and two buffers with a slot for each rank. A rank
    writes to its slot, posts to the other ranks, waits for their posts, and reads. The next sum uses the other buffer.
    A rank returns to the first buffer only after all ranks have posted for the second, so all have read the first by
    then, and reading needs no signal of its own. POSIX semaphores order memory accesses on every processor.

    A wait releases the GIL and the core at once, so there may be more ranks than cores. To spin for some microseconds
    first was no faster.
    """

    def __init__(self, memory: mmap.mmap, processes: list[_Process], rank: int, timeout: float) -> None:
        """
        Args:
            memory: `_memory_size` bytes that all of `processes` have mapped, with semaphores and zeros otherwise.
            timeout: seconds that a rank waits for another one.
        """
        self.size = len(processes)
        self._rank, self._processes, self._timeout = rank, processes, timeout
        self._others = [other for other in range(self.size) if other != rank]
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._incoming = {other: address + _semaphore_offset(other, rank, self.size) for other in self._others}
        self._outgoing = [address + _semaphore_offset(rank, other, self.size) for other in self._others]
        start = _slots_offset(self.size)
        bytes_of_all = torch.frombuffer(memory, dtype=torch.uint8, offset=start, count=_memory_size(self.size) - start)
        self._buffers = list(bytes_of_all.view(_BUFFERS, self.size, _CHUNK_BYTES))
        self._turn = 0
        self._views: dict[tuple[int, torch.dtype, int], list[Tensor]] = {}
        libc = ctypes.CDLL(None, use_errno=True)
        self._post, self._try, self._wait = libc.sem_post, libc.sem_trywait, libc.sem_timedwait
        for function in (self._post, self._try):
            function.argtypes = (ctypes.c_void_p,)
        self._wait.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Timespec))

    def sum_(self, flat: Tensor, factor: float = 1.0) -> None:
        """Replace `flat` by the sum of `factor * flat` over all ranks.

        Every rank gets the same bits: the ranks are added in a fixed binary tree, (0 + 1) + (2 + 3) and so on.

        Args:
            flat: [n], contiguous, floating point, on the CPU; n and dtype are the same on all ranks.

        Raises:
            DistNetworkError: another rank has exited, or did not call this within the timeout.
        """
        for part in torch.split(flat, _CHUNK_BYTES // flat.element_size()):
            slots = self._next_slots(part)
            torch.mul(part, factor, out=slots[self._rank])
            self._synchronize()
            if self.size == 2:  # two full sums are cheaper than a second synchronization
                torch.add(slots[0], slots[1], out=part)
            else:
                _sum_tree([slot.tensor_split(self.size)[self._rank] for slot in slots])
                self._synchronize()
                part.copy_(slots[0])

    def _next_slots(self, part: Tensor) -> list[Tensor]:
        """Return the slots of all ranks in the next buffer, as tensors of the dtype and size of `part`."""
        self._turn = (self._turn + 1) % _BUFFERS
        key = (self._turn, part.dtype, part.numel())
        if key not in self._views:
            self._views[key] = [slot.view(part.dtype)[: part.numel()] for slot in self._buffers[self._turn]]
        return self._views[key]

    def _synchronize(self) -> None:
        """Wait until every rank is here; what they have written before can be read afterwards."""
        for semaphore in self._outgoing:
            self._post(semaphore)
        for other, semaphore in self._incoming.items():
            if self._try(semaphore) != 0:
                self._wait_for(other, semaphore)

    def _wait_for(self, other: int, semaphore: int) -> None:
        deadline = time.monotonic() + self._timeout
        while self._wait(semaphore, ctypes.byref(_Timespec.after(_CHECK_INTERVAL))) != 0:
            code = ctypes.get_errno()
            if code not in (errno.ETIMEDOUT, errno.EINTR):
                raise OSError(code, os.strerror(code))
            process = self._processes[other]
            if read_process_state(process.pid, process.started) == "X":
                raise DistNetworkError(f"rank {other}({self.size}), pid {process.pid}, has exited")
            if time.monotonic() > deadline:
                raise DistNetworkError(f"timed out waiting {self._timeout:g} s for rank {other}({self.size})")


class _Timespec(ctypes.Structure):
    """The C type `struct timespec`."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    @classmethod
    def after(cls, seconds: float) -> "_Timespec":
        """Return the time in some seconds, since 1970, which is the clock of sem_timedwait."""
        whole, rest = divmod(time.time() + seconds, 1)
        return cls(int(whole), int(rest * 10**9))


def open_shared_memory(config: Distributed, world: World) -> SharedMemory | None:
    """Create memory that all ranks share; every rank has to call this.

    The memory has no name in a file system: nothing remains of it however the ranks end, and the size of /dev/shm does
    not limit it.

    Returns:
        None, on all ranks, if there is one rank, if the ranks are on several machines or on GPUs, if
        `distributed.shared_memory` is off, or if the system does not let them share, which is logged.
    """
    if config.shared_memory == "off" or world.device.type != "cpu" or not 1 < world.size == world.local_size:
        return None
    descriptor = _create_memory(world.size) if world.is_main else -1
    table = torch.zeros(world.size, 3, dtype=torch.int64)
    own = _current_process()
    table[world.rank] = torch.tensor([own.pid, own.started, descriptor])
    rows = world.sum_(table).tolist()
    processes = [_Process(pid, started) for pid, started, _ in rows]
    memory = _map_memory(processes, rows[0][2]) if rows[0][2] >= 0 else None
    is_everywhere = int(world.sum_(torch.tensor(int(memory is not None)))) == world.size
    if descriptor >= 0:
        os.close(descriptor)
    if memory is None or not is_everywhere:
        _log.info("the ranks can't share memory here; their gradients go through %s", world.backend)
        return None
    return SharedMemory(memory, processes, world.rank, 60 * config.timeout_minutes)


def _create_memory(size: int) -> int:
    """Return a file descriptor of new memory with its semaphores; -1 where the system refuses."""
    try:
        descriptor = os.memfd_create("dist_train")
        try:
            _initialize(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, AttributeError) as error:  # AttributeError: the system has no memfd_create
        _log.info("no shared memory: %s", error)
        return -1
    return descriptor


def _initialize(descriptor: int, size: int) -> None:
    # All of it is allocated now: a later write to memory for which there is no room would kill the process.
    os.posix_fallocate(descriptor, 0, _memory_size(size))
    memory = mmap.mmap(descriptor, _memory_size(size))
    own = _current_process()
    _OWNER.pack_into(memory, 0, own.pid, own.started)
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for offset in [_semaphore_offset(one, other, size) for one in range(size) for other in range(size)]:
        if libc.sem_init(ctypes.c_void_p(address + offset), 1, 0) != 0:
            raise OSError(ctypes.get_errno(), "sem_init")


def _map_memory(processes: list[_Process], descriptor: int) -> mmap.mmap | None:
    """Map the memory that the first of `processes` has created; None if it or one of them can't be seen from here."""
    first = processes[0]
    try:
        for process in processes:
            if read_process_state(process.pid, process.started) == "X":
                raise OSError(f"process {process.pid} can't be seen from here")
        opened = os.open(f"/proc/{first.pid}/fd/{descriptor}", os.O_RDWR)
        try:
            memory = mmap.mmap(opened, _memory_size(len(processes)))
        finally:
            os.close(opened)
        if _OWNER.unpack_from(memory) != (first.pid, first.started):
            raise OSError(f"process {first.pid} has created other memory")
    except (OSError, ValueError) as error:  # ValueError: a file that is smaller
        _log.info("no shared memory: %s", error)
        return None
    return memory


def _current_process() -> _Process:
    pid = os.getpid()
    stat = read_process_stat(pid)
    return _Process(pid, stat[1] if stat else 0)


def _sum_tree(tensors: list[Tensor]) -> None:
    """Sum all tensors into the first, in a binary tree; the others are overwritten."""
    distance = 1
    while distance < len(tensors):
        for number in range(0, len(tensors) - distance, 2 * distance):
            tensors[number] += tensors[number + distance]
        distance *= 2


def _semaphore_offset(sender: int, receiver: int, size: int) -> int:
    """Offset in bytes of the semaphore that one rank posts for another."""
    return _CACHE_LINE * (1 + sender * size + receiver)


def _slots_offset(size: int) -> int:
    """Offset in bytes of the first slot, at the start of a page."""
    return -(-_semaphore_offset(size, 0, size) // mmap.PAGESIZE) * mmap.PAGESIZE


def _memory_size(size: int) -> int:
    """Size in bytes of the memory for `size` ranks."""
    return _slots_offset(size) + _BUFFERS * size * _CHUNK_BYTES
