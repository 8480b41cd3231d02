"""Sums over the ranks of one machine, through memory that they share.

Gloo's ranks talk through TCP, on one machine too: several times slower than two copies and a sum in memory, and its
threads take the cores that compute.
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
from dist_train.system.process import process_state, state_and_start

_log = logging.getLogger(__name__)

_CHUNK = 2 * 2**20  # bytes that are summed at a time: few enough to stay in a cache until the others read them
_BUFFERS = 2
_LINE = 64  # bytes from one semaphore to the next: a line of the cache, so that ranks don't slow each other down
_OWNER = struct.Struct("<qq")  # pid and start of the process that has made the memory
_LOOK = 0.25  # seconds of waiting after which a rank looks whether the other still lives


@dataclass(frozen=True)
class _Process:
    """A rank, as the others find it."""

    pid: int
    started: int


class SharedMemory:
    """Sums over all ranks of one machine.

    The memory holds a semaphore for each ordered pair of ranks, and two buffers with a slot for each rank. A rank
    writes to its slot, tells the others, waits for them, and reads. It writes to the other buffer then, and to the
    first one again only when all have told that they are done with the second: so all have read the first by then,
    and nobody has to tell that he has read. POSIX has its semaphores order memory, on every kind of processor.

    A wait gives up Python's lock and the core, at once, so there may be more ranks than cores; spinning for some
    microseconds before was no faster.
    """

    def __init__(self, memory: mmap.mmap, processes: list[_Process], rank: int, timeout: float) -> None:
        """
        Args:
            memory: `_size` bytes of zeros that all of `processes` have mapped, whose first one has made its semaphores.
            timeout: seconds that a rank waits for another one.
        """
        self.size = len(processes)
        self._rank, self._processes, self._timeout = rank, processes, timeout
        self._others = [other for other in range(self.size) if other != rank]
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._told = {other: address + _semaphore(other, rank, self.size) for other in self._others}
        self._tells = [address + _semaphore(rank, other, self.size) for other in self._others]
        start = _slots(self.size)
        bytes_of_all = torch.frombuffer(memory, dtype=torch.uint8, offset=start, count=_size(self.size) - start)
        self._buffers = list(bytes_of_all.view(_BUFFERS, self.size, _CHUNK))
        self._turn = 0
        self._views: dict[tuple[int, torch.dtype, int], list[Tensor]] = {}
        libc = ctypes.CDLL(None, use_errno=True)
        self._post, self._try, self._wait = libc.sem_post, libc.sem_trywait, libc.sem_timedwait
        for function in (self._post, self._try):
            function.argtypes = (ctypes.c_void_p,)
        self._wait.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Timespec))

    def sum_(self, flat: Tensor, factor: float = 1.0) -> None:
        """Replace `flat` by the sum over all ranks of `factor` times theirs.

        `flat` is [n], contiguous, of floating point, on the CPU. Every rank calls this with one of the same size and
        type, and finds the same bits. The ranks are added in a fixed binary tree, whoever comes first: (0 + 1) +
        (2 + 3), and so on.

        Raises:
            DistNetworkError: another rank has gone, or did not come within the timeout.
        """
        for part in torch.split(flat, _CHUNK // flat.element_size()):
            slots = self._next_slots(part)
            torch.mul(part, factor, out=slots[self._rank])
            self._meet()
            if self.size == 2:  # to sum all of two is cheaper than to meet again
                torch.add(slots[0], slots[1], out=part)
            else:
                _add_up([slot.tensor_split(self.size)[self._rank] for slot in slots])
                self._meet()
                part.copy_(slots[0])

    def _next_slots(self, part: Tensor) -> list[Tensor]:
        """The slots of all ranks in the buffer whose turn it is, as tensors like `part`."""
        self._turn = (self._turn + 1) % _BUFFERS
        key = (self._turn, part.dtype, part.numel())
        if key not in self._views:
            self._views[key] = [slot.view(part.dtype)[: part.numel()] for slot in self._buffers[self._turn]]
        return self._views[key]

    def _meet(self) -> None:
        """Wait until every rank is here; what they wrote before can be read after it."""
        for semaphore in self._tells:
            self._post(semaphore)
        for other, semaphore in self._told.items():
            if self._try(semaphore) != 0:
                self._wait_for(other, semaphore)

    def _wait_for(self, other: int, semaphore: int) -> None:
        deadline = time.monotonic() + self._timeout
        while self._wait(semaphore, ctypes.byref(_Timespec.after(_LOOK))) != 0:
            code = ctypes.get_errno()
            if code not in (errno.ETIMEDOUT, errno.EINTR):
                raise OSError(code, os.strerror(code))
            process = self._processes[other]
            if process_state(process.pid, process.started) == "X":
                raise DistNetworkError(f"rank {other}({self.size}), pid {process.pid}, has gone")
            if time.monotonic() > deadline:
                raise DistNetworkError(f"timed out waiting {self._timeout:g} s for rank {other}({self.size})")


class _Timespec(ctypes.Structure):
    """struct timespec."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    @classmethod
    def after(cls, seconds: float) -> "_Timespec":
        """The time in some seconds, since 1970: sem_timedwait knows no other clock."""
        whole, rest = divmod(time.time() + seconds, 1)
        return cls(int(whole), int(rest * 10**9))


def open_shared_memory(config: Distributed, world: World) -> SharedMemory | None:
    """Memory that all ranks share; every rank has to call this.

    It has no name in any directory, so nothing is left of it however the ranks end, and no small /dev/shm is too small.

    Returns:
        None, on all ranks alike: where there is one rank, or ranks on several machines or on GPUs, where
        `distributed.shared_memory` is off, and, with a word in the log, where the system does not let them share.
    """
    if config.shared_memory == "off" or world.device.type != "cpu" or not 1 < world.size == world.local_size:
        return None
    made = _made(world.size) if world.is_main else -1
    table = torch.zeros(world.size, 3, dtype=torch.int64)
    own = _here()
    table[world.rank] = torch.tensor([own.pid, own.started, made])
    rows = world.sum_(table).tolist()
    processes = [_Process(pid, started) for pid, started, _ in rows]
    memory = _mapped(processes, rows[0][2]) if rows[0][2] >= 0 else None
    is_everywhere = int(world.sum_(torch.tensor(int(memory is not None)))) == world.size
    if made >= 0:
        os.close(made)
    if memory is None or not is_everywhere:
        _log.info("the ranks can't share memory here; their gradients go through %s", world.backend)
        return None
    return SharedMemory(memory, processes, world.rank, 60 * config.timeout_minutes)


def _made(size: int) -> int:
    """A descriptor of new memory with its semaphores; -1 where the system gives none."""
    try:
        descriptor = os.memfd_create("dist_train")
        try:
            _prepare(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, AttributeError) as error:  # AttributeError: a system that has no such function
        _log.info("no shared memory: %s", error)
        return -1
    return descriptor


def _prepare(descriptor: int, size: int) -> None:
    # All of it is taken now: to write to memory for which there is no room would end the process.
    os.posix_fallocate(descriptor, 0, _size(size))
    memory = mmap.mmap(descriptor, _size(size))
    own = _here()
    _OWNER.pack_into(memory, 0, own.pid, own.started)
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for offset in [_semaphore(one, other, size) for one in range(size) for other in range(size)]:
        if libc.sem_init(ctypes.c_void_p(address + offset), 1, 0) != 0:
            raise OSError(ctypes.get_errno(), "sem_init")


def _mapped(processes: list[_Process], descriptor: int) -> mmap.mmap | None:
    """The memory that the first of `processes` has made; None where this process can't reach it, or sees not all."""
    first = processes[0]
    try:
        for process in processes:
            if process_state(process.pid, process.started) == "X":
                raise OSError(f"process {process.pid} can't be seen from here")
        opened = os.open(f"/proc/{first.pid}/fd/{descriptor}", os.O_RDWR)
        try:
            memory = mmap.mmap(opened, _size(len(processes)))
        finally:
            os.close(opened)
        if _OWNER.unpack_from(memory) != (first.pid, first.started):
            raise OSError(f"process {first.pid} has made other memory")
    except (OSError, ValueError) as error:  # ValueError: a file that is smaller
        _log.info("no shared memory: %s", error)
        return None
    return memory


def _here() -> _Process:
    pid = os.getpid()
    stat = state_and_start(pid)
    return _Process(pid, stat[1] if stat else 0)


def _add_up(tensors: list[Tensor]) -> None:
    """Sum all into the first, in a binary tree; the others hold what is left of them."""
    distance = 1
    while distance < len(tensors):
        for number in range(0, len(tensors) - distance, 2 * distance):
            tensors[number] += tensors[number + distance]
        distance *= 2


def _semaphore(teller: int, told: int, size: int) -> int:
    """Where the semaphore lies by which one rank tells another one."""
    return _LINE * (1 + teller * size + told)


def _slots(size: int) -> int:
    """Where the slots begin: at a page."""
    return -(-_semaphore(size, 0, size) // mmap.PAGESIZE) * mmap.PAGESIZE


def _size(size: int) -> int:
    """Bytes of the memory for `size` ranks."""
    return _slots(size) + _BUFFERS * size * _CHUNK
