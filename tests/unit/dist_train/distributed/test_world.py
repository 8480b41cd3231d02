"""The rank of a process and the collectives: in a world of one, and under a real torchrun."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.distributed.world import (
    LauncherVariables,
    World,
    open_world,
    read_launcher_variables,
    restart_may_hang,
)
from dist_train.errors import ConfigError, WorldError
from dist_train.settings.schema import Distributed
from tests.conftest import Ranks

COMPLETE = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def test_without_variables_there_is_no_launcher() -> None:
    assert read_launcher_variables({}) is None
    assert read_launcher_variables({"HOME": "/", "OMP_NUM_THREADS": "1"}) is None


def test_all_variables_are_read() -> None:
    assert read_launcher_variables(COMPLETE) == LauncherVariables(rank=3, size=4, local_rank=1, local_size=2)


@pytest.mark.parametrize("missing", COMPLETE)
def test_a_missing_variable_is_named(missing: str) -> None:
    environ = {name: value for name, value in COMPLETE.items() if name != missing}
    with pytest.raises(WorldError, match=rf"RANK.* set, but {missing} not\. Start with torchrun"):
        read_launcher_variables(environ)


def test_a_single_variable_names_all_the_others() -> None:
    with pytest.raises(WorldError, match="RANK set, but WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER"):
        read_launcher_variables({"RANK": "0"})


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
@pytest.mark.parametrize("value", ["", "one", "-1", "1.0", "²"])
def test_a_variable_that_is_no_number_is_named(name: str, value: str) -> None:
    with pytest.raises(WorldError, match=rf"environment: {name} is '{value}'; it must be a number"):
        read_launcher_variables({**COMPLETE, name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "4"}, "RANK is 4 and WORLD_SIZE is 4; it must be below"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2 and LOCAL_WORLD_SIZE is 2; it must be below"),
        ({"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE is 5 and WORLD_SIZE is 4; it must not be above"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is 0; it must be from 1 to 65535"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536; it must be from 1 to 65535"),
    ],
)
def test_contradictions_are_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        read_launcher_variables({**COMPLETE, **changes})


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
def test_a_refusal_ends_every_rank_and_the_lowest_one_is_printed(torchrun: Ranks, tmp_path: Path) -> None:
    """Ranks 1 and 2 of 3 refuse."""
    done = torchrun(3, "-m", "tests.programs.together", str(tmp_path), "refuse", timeout=60)
    assert done.returncode == 1  # torchrun's own, whatever its ranks return
    for rank, result in enumerate(results(tmp_path, 3)):
        raised = "ConfigError" if rank == 1 else "RefusedElsewhereError"
        assert result == {"code": 2, "raised": [raised], "group is open": False}
    assert done.stderr.count("rank 1(3) does not like it") == 1
    assert "rank 2(3)" not in done.stderr
    assert 'world.py", line' not in done.stderr  # torchrun prints a traceback of its own


@pytest.mark.slow
def test_a_fault_in_an_agreement_ends_every_rank_with_a_traceback(torchrun: Ranks, tmp_path: Path) -> None:
    done = torchrun(2, "-m", "tests.programs.together", str(tmp_path), "fail", timeout=60)
    assert done.returncode == 1
    assert "ZeroDivisionError: a fault of the program" in done.stderr


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"TORCHELASTIC_MAX_RESTARTS": "0"}, False),
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, False),
        ({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}, False),
        ({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"}, True),
    ],
)
def test_a_torchrun_whose_restart_may_hang_is_recognised(changed: dict[str, str], expected: bool) -> None:
    environ = {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True", **changed}
    assert restart_may_hang(environ) is expected


def test_a_single_process_has_no_restart_to_hang() -> None:
    assert not restart_may_hang({})
