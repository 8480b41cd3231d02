"""One rank of `test_shared_memory`: sums in shared memory and through Gloo, and writes the results.

    torchrun ... -m tests.programs.sharing DIRECTORY

DIST_TRAIN_TEST_REFUSES: the rank that can't map the memory, -1 for none.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_train.distributed import shared_memory
from dist_train.distributed.shared_memory import SharedMemory, open_shared_memory
from dist_train.distributed.world import World, open_world
from dist_train.settings.schema import Distributed
from dist_train.system.exit import leave, run_guarded

SIZES = (3, 70_001, 700_001)


def sums(memory: SharedMemory, world: World) -> dict[str, Any]:
    digests = hashlib.sha256(), hashlib.sha256()
    distance = 0.0
    for turn in range(12):
        generator = torch.Generator().manual_seed(world.size * turn + world.rank)
        own = torch.randn(SIZES[turn % len(SIZES)], generator=generator)
        shared, gloo = own.clone(), world.sum_(own.mul(1 / world.size))
        memory.sum_(shared, 1 / world.size)
        for digest, tensor in zip(digests, (shared, gloo), strict=True):
            digest.update(tensor.numpy().tobytes())
        distance = max(distance, _distance(shared, gloo))
    return {"bits": digests[0].hexdigest(), "bits of gloo": digests[1].hexdigest(), "distance to gloo": distance}


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def main() -> None:
    world = open_world(Distributed(backend="gloo"))
    if world.rank == int(os.environ["DIST_TRAIN_TEST_REFUSES"]):
        shared_memory._map_memory = lambda *_: None
    memory = open_shared_memory(Distributed(), world)
    result = {"shares": memory is not None, **(sums(memory, world) if memory else {})}
    del memory
    targets = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    result["left"] = [target for target in targets if "memfd:dist_train" in target]
    (Path(sys.argv[1]) / f"{world.rank}.json").write_text(json.dumps(result))
    world.close()


if __name__ == "__main__":
    leave(run_guarded(main))
