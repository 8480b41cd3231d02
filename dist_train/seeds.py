"""Seeds and random bits as functions of (seed, purpose, position); no random state is kept.

Each random number of a run is a function of the run's seed, its purpose and its position in the run: the order of
samples of (seed, epoch), an augmentation of (seed, epoch, sample index), dropout of (seed, step, shard). So no
random state is saved, the number of loader workers changes nothing, and a run resumes at any step.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_MASK_64 = 2**64 - 1


def derive(seed: int, purpose: str, *position: int) -> int:
    """Derive a seed in [0, 2**63) for one purpose and position, e.g. `derive(0, "step", step, shard)`.

    BLAKE2b of the parts, so that neighbouring seeds, epochs or steps share nothing.
    """
    text = ":".join([purpose, str(seed), *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """Create a CPU generator for one purpose and position."""
    return torch.Generator().manual_seed(derive(seed, purpose, *position))


def random_bits(seed: int, purposes: Sequence[str], epoch: int, indices: Tensor) -> Tensor:
    """Return uniform random integers in [0, 2**31) for each purpose and index, the same on every device.

    Args:
        indices: int64 [N], e.g. numbers of samples in their split.

    Returns:
        int64 [P, N] on the device of `indices`: the upper bits of splitmix64 (Steele, Lea and Flood, "Fast splittable
        pseudorandom number generators", OOPSLA 2014) at the position `index` of a stream keyed by the rest. An
        index's number does not depend on the other indices.
    """
    # All purposes at once: for a small batch, the calls cost more than the numbers.
    positions = indices * _signed(0x9E3779B97F4A7C15)
    z = torch.stack([positions + _signed(derive(seed, purpose, epoch) << 1) for purpose in purposes])
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return _shift_right(z ^ _shift_right(z, 31), 33)


def seed_generators(seed: int) -> None:
    """Seed `random`, `numpy.random` and torch, from which the user's code may draw; `seed` in [0, 2**63)."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Restore the states of `random`, `numpy.random` and torch on the CPU after the block."""
    python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)


def seed_step(seed: int, step: int, shard: int, device: torch.device) -> None:
    """Seed torch's global generator of `device` for one shard of one step; dropout draws from it."""
    value = derive(seed, "step", step, shard)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)


def _signed(value: int) -> int:
    """Return the int64 with the same 64 bits; products of int64 tensors wrap."""
    value &= _MASK_64
    return value - 2**64 if value >= 2**63 else value


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift in zeros from the left, which `>>` of a signed tensor does not."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
