"""The rendezvous of an agent that is alone: a store for its ranks on the loopback interface."""

import socket

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

HOST = "127.0.0.1"


class LoopbackRendezvous(RendezvousHandler):
    """A rendezvous of one agent, whose store only this machine can reach.

    Each attempt gets a new store, because the entries of an earlier attempt would mislead the next one.
    """

    use_agent_store = True

    def next_rendezvous(self) -> RendezvousInfo:
        listening = socket.create_server((HOST, 0))
        port = listening.getsockname()[1]
        store = TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(HOST, port))

    def get_backend(self) -> str:
        return "loopback"

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
