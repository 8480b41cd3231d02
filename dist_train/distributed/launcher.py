"""Read the environment variables in which torchrun, Slurm or another launcher passes a process its rank."""

from collections.abc import Mapping
from dataclasses import dataclass

from dist_train.errors import WorldError
from dist_train.system.environment import read_number

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class LauncherVariables:
    """Rank and world size of this process, from the variables that torchrun sets."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    """Name or address of the machine on which the ranks meet."""
    port: int


def read_launcher_variables(environ: Mapping[str, str]) -> LauncherVariables | None:
    """Read the launcher's variables; None where none of them is set.

    Raises:
        WorldError: only some of them are set, one is not a number, or a rank is not below its size.
    """
    present = [name for name in LAUNCHER_VARIABLES if name in environ]
    missing = [name for name in LAUNCHER_VARIABLES if name not in environ]
    if not present:
        return None
    if missing:
        raise WorldError(
            f"environment: {', '.join(present)} set, but {', '.join(missing)} not. Start with torchrun, which sets all "
            f"of {', '.join(LAUNCHER_VARIABLES)}, or unset them to run one process."
        )
    rank, size, local_rank, local_size, port = (
        read_number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    )
    for low, high in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if int(environ[low]) >= int(environ[high]):
            raise WorldError(f"environment: {low} is {environ[low]} and {high} is {environ[high]}; it must be below")
    if local_size > size:
        raise WorldError(
            f"environment: LOCAL_WORLD_SIZE is {local_size} and WORLD_SIZE is {size}; it must not be above"
        )
    if not 0 < port < 2**16:
        raise WorldError(f"environment: MASTER_PORT is {port}; it must be from 1 to 65535")
    return LauncherVariables(rank, size, local_rank, local_size, environ["MASTER_ADDR"], port)


def restart_may_hang(environ: Mapping[str, str]) -> bool:
    """Whether torchrun would restart these ranks with a store that still has the entries of lost ranks.

    The new ranks then try to connect to the lost ones: with torch 2.15, in about every second restart of two ranks.
    """
    return (
        read_number(environ, "TORCHELASTIC_MAX_RESTARTS", 0) > 0
        and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") != "1"
    )
