"""Randomness as a function, never a state.

Every random number of a run is a function of the run's seed, of what it is for, and of where in the run it is used:
the order of samples of (seed, epoch), an augmentation of (seed, epoch, sample index), dropout of (seed, step, shard).
Nothing random has to be saved, the number of loader workers changes nothing, and to resume is to go on at a step.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK_64 = 2**64 - 1


def derive(seed: int, purpose: str, *where: int) -> int:
    """A seed in [0, 2**63) for one purpose at one place, e.g. `derive(0, "order", epoch)`.

    BLAKE2b of the parts, so that neighbouring seeds, epochs or steps share nothing.
    """
    text = ":".join([purpose, str(seed), *map(str, where)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *where: int) -> torch.Generator:
    """A CPU generator in the state that belongs to one purpose at one place."""
    return torch.Generator().manual_seed(derive(seed, purpose, *where))


def random_bits(seed: int, purposes: Sequence[str], epoch: int, indices: Tensor) -> Tensor:
    """Uniform random integers in [0, 2**31), one for each purpose and sample index, the same on every device.

    Args:
        indices: int64 [N], numbers of samples in their split.

    Returns:
        int64 [P, N] on the device of `indices`: the upper bits of splitmix64 (Steele, Lea and Flood, "Fast splittable
        pseudorandom number generators", OOPSLA 2014) at the position `index` of a stream keyed by the rest. A sample's
        number depends on nothing but its own index, so a batch may be cut anywhere.
    """
    # All purposes in one go: of a small batch, the calls cost more than the numbers.
    positions = indices * _signed(0x9E3779B97F4A7C15)
    z = torch.stack([positions + _signed(derive(seed, purpose, epoch) << 1) for purpose in purposes])
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return _shift_right(z ^ _shift_right(z, 31), 33)


def seed_step(seed: int, step: int, shard: int, device: torch.device) -> None:
    """Put torch's global generator of `device` in the state for one shard of one step (dropout draws from it)."""
    value = derive(seed, "step", step, shard)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits; products of int64 tensors wrap, as the method wants."""
    value &= _MASK_64
    return value - 2**64 if value >= 2**63 else value


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift in zeros from the left, which `>>` of a signed tensor does not."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
