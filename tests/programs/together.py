"""One rank of `test_world`: performs an action and writes its result.

    torchrun ... -m tests.programs.together DIRECTORY ACTION

ACTION: collectives, refuse or fail.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dist_train.distributed.world import World, open_world
from dist_train.errors import ConfigError, DataError, UserError
from dist_train.settings.schema import Distributed
from dist_train.system import exit as exit_module
from dist_train.system.exit import run_guarded


def collectives(world: World) -> dict[str, Any]:
    """Every collective once."""
    mine = torch.tensor([world.rank + 1.0, 10.0])
    tensors = [torch.full((2, 3), world.rank), torch.tensor(world.rank + 0.5)]
    big = bytes(range(256)) * 12 * 1024 if world.rank == 0 else None
    last = world.size - 1
    result = {
        "name": str(world),
        "main": world.is_main,
        "sum": world.sum_(mine).tolist(),
        "in place": mine.tolist(),
        "exchanged": world.exchange(torch.tensor([world.rank]), 1 - world.rank).tolist() if world.rank < 2 else [],
        "empty": len(world.broadcast_bytes(b"" if world.is_main else None)),
        "text": world.broadcast_bytes(b"from the last" if world.rank == last else None, last).decode(),
        "big": hashlib.sha256(world.broadcast_bytes(big)).hexdigest(),
    }
    world.broadcast_(tensors, last)
    world.barrier()
    with world.agreement():
        result["broadcast"] = [tensor.tolist() for tensor in tensors]
    world.close()
    return result


def refuse(world: World) -> dict[str, Any]:
    """An agreement in which ranks 1 and 2 refuse, in a command: the exit code of each rank is recorded."""
    raised: list[str] = []
    exit_module.PATIENCE = 0.5  # no rank leaves before it has the results of the others

    def command() -> None:
        try:
            with world.agreement():
                if world.rank in (1, 2):
                    raise (ConfigError if world.rank == 1 else DataError)(f"rank {world} does not like it")
        except UserError as error:
            raised.append(type(error).__name__)
            raise

    code = run_guarded(command)
    return {"code": code, "raised": raised, "group is open": dist.is_initialized()}


def fail(world: World) -> dict[str, Any]:
    """An error that is no refusal: the other ranks are in the agreement and must not wait, though this one lives on."""
    try:
        with world.agreement():
            if world.rank == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    except Exception as error:
        return {"raised": type(error).__name__, "text": str(error)}
    return {}


ACTIONS = {"collectives": collectives, "refuse": refuse, "fail": fail}


def main() -> int:
    """Write this rank's result, and wait for those of the others: torchrun ends them as soon as one has failed."""
    directory, action = Path(sys.argv[1]), sys.argv[2]
    world = open_world(Distributed(backend="gloo"))
    result = ACTIONS[action](world)
    temporary = directory / f".{world.rank}"
    temporary.write_text(json.dumps(result))
    temporary.rename(directory / f"{world.rank}.json")
    deadline = time.monotonic() + 30
    while len(list(directory.glob("*.json"))) < world.size and time.monotonic() < deadline:
        time.sleep(0.02)
    return int(result.get("code", 0))


if __name__ == "__main__":
    sys.exit(main())
