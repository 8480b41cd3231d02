"""The rank of a process and the collectives: in a world of one, and under a real torchrun."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.distributed.world import World, open_world
from dist_train.errors import ConfigError, WorldError
from dist_train.settings.schema import Distributed
from tests.conftest import Ranks


def test_collectives_of_one_rank_return_their_input() -> None:
    world = open_world(Distributed(backend="gloo"), environ={})
    tensor = torch.tensor([1.0, 2.0])
    assert (world.rank, world.size, world.is_main, str(world)) == (0, 1, True, "0(1)")
    assert world.device == torch.device("cpu")
    assert world.sum_(tensor) is tensor
    world.broadcast_([tensor])
    assert tensor.tolist() == [1.0, 2.0]
    assert world.broadcast_bytes(b"bytes") == b"bytes"
    assert world.broadcast_bytes(b"") == b""
    world.barrier()
    world.close()


@pytest.mark.parametrize("error", [ConfigError("no"), ZeroDivisionError("no")])
def test_an_agreement_of_one_rank_raises_its_error(error: Exception) -> None:
    with pytest.raises(type(error), match="no"), World().agreement():
        raise error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nccl_without_a_gpu_is_refused() -> None:
    with pytest.raises(WorldError, match=r"distributed\.backend is nccl, but torch finds no GPU"):
        open_world(Distributed(backend="nccl"), environ={})


def test_half_set_variables_are_refused_before_any_group_is_made() -> None:
    with pytest.raises(WorldError, match="WORLD_SIZE set, but"):
        open_world(Distributed(backend="gloo"), environ={"WORLD_SIZE": "2"})


def results(directory: Path, ranks: int) -> list[dict[str, Any]]:
    """What each rank has written down, in the order of ranks."""
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.slow
def test_every_collective_of_three_ranks(on_ranks: Ranks, tmp_path: Path) -> None:
    done = on_ranks(3, "-m", "tests.programs.together", str(tmp_path), "collectives")
    assert done.returncode == 0, done.stderr
    for rank, result in enumerate(results(tmp_path, 3)):
        assert result == {
            "name": f"{rank}(3)",
            "main": rank == 0,
            "sum": [1 + 2 + 3, 30.0],
            "in place": [1 + 2 + 3, 30.0],
            "exchanged": [[1], [0], []][rank],
            "empty": 0,
            "text": "from the last",
            "big": hashlib.sha256(bytes(range(256)) * 12 * 1024).hexdigest(),
            "broadcast": [[[2] * 3] * 2, 2.5],
        }


@pytest.mark.slow
def test_a_refusal_ends_every_rank_and_the_lowest_one_is_printed(on_ranks: Ranks, tmp_path: Path) -> None:
    """Ranks 1 and 2 of 3 refuse."""
    done = on_ranks(3, "-m", "tests.programs.together", str(tmp_path), "refuse", timeout=60)
    assert done.returncode == 1  # of several ranks, as torchrun has it
    for rank, result in enumerate(results(tmp_path, 3)):
        raised = "ConfigError" if rank == 1 else "RefusedElsewhereError"
        assert result == {"code": 2, "raised": [raised], "group is open": False}
    assert done.stderr.count("rank 1(3) does not like it") == 1
    assert "rank 2(3)" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_error_of_one_rank_in_an_agreement_is_raised_on_all(on_ranks: Ranks, tmp_path: Path) -> None:
    done = on_ranks(3, "-m", "tests.programs.together", str(tmp_path), "fail", timeout=60)
    assert done.returncode == 0, done.stderr
    other = {"raised": "RefusedElsewhereError", "text": "rank 1(3) has failed"}
    own = {"raised": "OutOfMemoryError", "text": "CUDA out of memory. Tried to allocate 2.00 GiB."}
    assert results(tmp_path, 3) == [other, own, other]
