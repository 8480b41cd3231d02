"""The rendezvous of an agent on one machine: a store for its ranks, in memory that only they can open."""

import os

from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from dist_train.distributed.rendezvous import STORE_FILE

_NO_ADDRESS = RendezvousStoreInfo("127.0.0.1", 1)
"""What torch's agent hands to its ranks as MASTER_ADDR and MASTER_PORT; nothing listens there."""


class PrivateStore(RendezvousHandler):
    """A rendezvous of one agent, whose forks find the store by an open file; no other user can reach it.

    Each attempt gets a new store, because the entries of an earlier attempt would mislead the next one.
    """

    use_agent_store = False  # of torch: its ranks would look for a server at an address

    def next_rendezvous(self) -> RendezvousInfo:
        # Never closed: a store opens it by its number whenever it is used, and when it is destroyed.
        path = os.environ[STORE_FILE] = f"/proc/self/fd/{os.memfd_create('dist_train store')}"
        return RendezvousInfo(FileStore(path, -1), 0, 1, _NO_ADDRESS)

    def get_backend(self) -> str:
        return "private"

    def get_run_id(self) -> str:
        return "dist-train"

    def num_nodes_waiting(self) -> int:
        return 0

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def shutdown(self) -> bool:
        return True
