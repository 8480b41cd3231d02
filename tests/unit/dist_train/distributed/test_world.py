"""Who a process is, and what ranks do together: alone in this process, and under a real torchrun."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.distributed.world import LauncherVariables, World, count_cores, open_world, read_launcher_variables
from dist_train.errors import ConfigError, WorldError
from dist_train.settings.schema import Distributed
from tests.conftest import Torchrun

WHOLE = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def test_without_variables_there_is_no_place() -> None:
    assert read_launcher_variables({}) is None
    assert read_launcher_variables({"HOME": "/", "OMP_NUM_THREADS": "1"}) is None


def test_all_variables_make_a_place() -> None:
    assert read_launcher_variables(WHOLE) == LauncherVariables(rank=3, size=4, local_rank=1, local_size=2)


@pytest.mark.parametrize("missing", WHOLE)
def test_a_missing_variable_is_named(missing: str) -> None:
    environ = {name: value for name, value in WHOLE.items() if name != missing}
    with pytest.raises(WorldError, match=rf"RANK.* set, but {missing} not\. Start with torchrun"):
        read_launcher_variables(environ)


def test_a_single_variable_names_all_the_others() -> None:
    with pytest.raises(WorldError, match="RANK set, but WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER"):
        read_launcher_variables({"RANK": "0"})


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
@pytest.mark.parametrize("value", ["", "one", "-1", "1.0", "²"])
def test_what_is_no_number_is_named(name: str, value: str) -> None:
    with pytest.raises(WorldError, match=rf"environment: {name} is '{value}'; it must be a number"):
        read_launcher_variables({**WHOLE, name: value})


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
        read_launcher_variables({**WHOLE, **changes})


def test_a_world_of_one_gets_back_what_it_gave() -> None:
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
def test_an_agreement_of_one_lets_errors_through(error: Exception) -> None:
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
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share(torchrun: Torchrun, tmp_path: Path, ranks: int) -> None:
    done = torchrun(ranks, "-m", "tests.programs.together", str(tmp_path), "collectives")
    assert done.returncode == 0, done.stderr
    last = ranks - 1
    for rank, result in enumerate(results(tmp_path, ranks)):
        assert result == {
            "name": f"{rank}({ranks})",
            "main": rank == 0,
            "sum": [sum(range(1, ranks + 1)), 10.0 * ranks],
            "in place": [sum(range(1, ranks + 1)), 10.0 * ranks],
            "exchanged": [1 - rank] if ranks == 2 else [],
            "empty": 0,
            "text": "from the last",
            "big": hashlib.sha256(bytes(range(256)) * 12 * 1024).hexdigest(),
            "broadcast": [[[last] * 3] * 2, last + 0.5],
        }


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_refusal_ends_every_rank(torchrun: Torchrun, tmp_path: Path, ranks: int) -> None:
    done = torchrun(ranks, "-m", "tests.programs.together", str(tmp_path), "one", timeout=60)
    assert done.returncode == 1  # torchrun's, whatever its ranks return
    for rank, result in enumerate(results(tmp_path, ranks)):
        raised = "ConfigError" if rank == 1 else "RefusedElsewhereError"
        assert result == {"code": 2, "raised": [raised], "group is open": False}
    assert done.stderr.count(f"rank 1({ranks}) does not like it") == 1
    assert 'world.py", line' not in done.stderr  # the traceback of torchrun itself is none of ours


@pytest.mark.slow
def test_of_two_refusals_the_first_rank_s_is_shown(torchrun: Torchrun, tmp_path: Path) -> None:
    done = torchrun(3, "-m", "tests.programs.together", str(tmp_path), "two", timeout=60)
    raised = [result["raised"] for result in results(tmp_path, 3)]
    assert raised == [["RefusedElsewhereError"], ["ConfigError"], ["RefusedElsewhereError"]]
    assert "rank 1(3) does not like it" in done.stderr
    assert "rank 2(3)" not in done.stderr


@pytest.mark.slow
def test_a_fault_in_an_agreement_ends_every_rank_with_a_traceback(torchrun: Torchrun, tmp_path: Path) -> None:
    done = torchrun(2, "-m", "tests.programs.together", str(tmp_path), "fail", timeout=60)
    assert done.returncode == 1
    assert "ZeroDivisionError: a fault of the program" in done.stderr


def test_a_scheduler_may_give_fewer_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    there = count_cores()
    for given, expected in (("1", 1), ("100000", there), ("", there), ("0", there), ("many", there)):
        monkeypatch.setenv("DIST_TRAIN_CORES", given)
        assert count_cores() == expected
