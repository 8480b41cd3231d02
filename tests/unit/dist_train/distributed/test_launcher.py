"""The launcher's variables: what a process reads from them, and what is refused."""

import pytest

from dist_train.distributed.launcher import LauncherVariables, read_launcher_variables, restart_may_hang
from dist_train.errors import WorldError

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
    assert read_launcher_variables(COMPLETE) == LauncherVariables(3, 4, 1, 2, "localhost", 29500)


@pytest.mark.parametrize("missing", COMPLETE)
def test_a_missing_variable_is_named(missing: str) -> None:
    environ = {name: value for name, value in COMPLETE.items() if name != missing}
    with pytest.raises(WorldError, match=rf"RANK.* set, but {missing} not\. Start with torchrun"):
        read_launcher_variables(environ)


def test_a_single_variable_names_all_the_others() -> None:
    with pytest.raises(WorldError, match="RANK set, but WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER"):
        read_launcher_variables({"RANK": "0"})


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
@pytest.mark.parametrize("value", ["", "one", "-1", "1.0", "²", "9" * 5000])
def test_a_variable_that_is_no_number_is_named(name: str, value: str) -> None:
    with pytest.raises(WorldError, match=rf"{name} is '{value[:3]}.*'; it must be a number from 0 to 999999999"):
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
