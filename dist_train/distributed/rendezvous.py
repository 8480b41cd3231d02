"""The store in which ranks find each other before they have a process group, and compare how they were started.

A store maps keys to bytes. Nothing in it is ever unpickled: ranks exchange text and JSON. Waits have a time limit and
print for which ranks they wait.
"""

import errno
import hashlib
import ipaddress
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import torch
from torch.distributed import DistError, FileStore, Store, TCPStore  # type: ignore[attr-defined]

import dist_train
from dist_train.distributed.launcher import LAUNCHER_VARIABLES, LauncherVariables
from dist_train.errors import RefusedElsewhereError, WorldError
from dist_train.settings.schema import Config, flatten
from dist_train.system.escape import escape

STORE_FILE = "DIST_TRAIN_STORE"
"""Variable with the path of a file that is the store of ranks on one machine; `dist-train train` sets it."""
PATIENCE = 10.0  # seconds of waiting before the first message
_LONGEST_POLL = 0.05  # seconds
_TIME_TO_READ = 5.0  # seconds that rank 0 waits for the others to read why they are refused
_MOST_LINES = 20  # differences that a message lists
# Paths, which differ from host to host, and what rank 0 alone uses.
_LOCAL_SETTINGS = ("run.dir", "run.resume", "data.root", "data.cache", "data.download", "data.workers")


@dataclass(frozen=True)
class Rendezvous:
    """The store of all ranks, and this rank's launcher variables."""

    store: Store
    launched: LauncherVariables
    timeout: float
    """Seconds that a rank waits for the others."""
    _numbers: Iterator[int] = field(default_factory=count)
    """Numbers of comparisons: the store keeps those of earlier trainings in the same processes."""

    def check_equal(self, topic: str, about: Mapping[str, Any]) -> None:
        """Wait until every rank calls this, and check that all give the same `about`.

        Rank 0 compares digests, and reads more only where they differ.

        Args:
            topic: a word for what is compared.
            about: values by their names, serializable as JSON.

        Raises:
            WorldError: a rank differs, or has not come in time; on local rank 0 of each machine.
            RefusedElsewhereError: the same on the other ranks.
        """
        text = json.dumps(about, sort_keys=True)
        own = {"host": socket.gethostname(), "digest": hashlib.sha256(text.encode()).hexdigest()}
        topic = f"{next(self._numbers)}/{topic}"
        self.store.set(f"{topic}/about/{self.launched.rank}", text)
        self.store.set(f"{topic}/{self.launched.rank}", json.dumps(own))
        try:
            if self.launched.rank == 0:
                self._wait_for([f"{topic}/{rank}" for rank in range(self.launched.size)])
                self.store.set(f"{topic}/verdict", self._compare(topic))
            self._wait_for([f"{topic}/verdict"])
            if verdict := self.store.get(f"{topic}/verdict").decode():
                self._wait_until_read(topic)
                raise WorldError(verdict)
        except DistError as error:
            raise WorldError(
                f"the connection to rank 0 was lost before the first step: {_first_line(error)}"
            ) from error
        except WorldError as error:
            if self.launched.local_rank == 0:
                raise
            raise RefusedElsewhereError(str(error)) from None

    def _wait_until_read(self, topic: str) -> None:
        """Let rank 0, which may serve the store, leave last."""
        self.store.set(f"{topic}/read/{self.launched.rank}", "")
        deadline = time.monotonic() + _TIME_TO_READ
        keys = [f"{topic}/read/{rank}" for rank in range(self.launched.size)]
        while self.launched.rank == 0 and not self.store.check(keys) and time.monotonic() < deadline:
            time.sleep(_LONGEST_POLL)

    def _compare(self, topic: str) -> str:
        """Return the message about ranks that differ from rank 0, "" if there are none."""
        found = [json.loads(self.store.get(f"{topic}/{rank}")) for rank in range(self.launched.size)]
        different = [rank for rank, each in enumerate(found) if each["digest"] != found[0]["digest"]]
        lines: dict[str, str] = {}
        first = json.loads(self.store.get(f"{topic}/about/0"))
        for rank in different:
            other = json.loads(self.store.get(f"{topic}/about/{rank}"))
            for key in sorted(first.keys() | other.keys()):
                if first.get(key) != other.get(key) and key not in lines:
                    hosts = f" (host {found[0]['host']}), ", f" (host {found[rank]['host']})"
                    lines[key] = (
                        f"  {escape(key)}: {_show(first, key)} on rank {self._name(0)}{hosts[0]}"
                        f"{_show(other, key)} on rank {self._name(rank)}{hosts[1]}"
                    )
        if not lines:
            return ""
        name = topic.partition("/")[2]
        shown = [*lines.values()][:_MOST_LINES]
        more = [f"  and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
        return "\n".join(
            [
                f"the ranks would not train the same: {name} differ{'s' if not name.endswith('s') else ''}",
                *shown,
                *more,
                "Start all ranks with the same settings, data and versions.",
            ]
        )

    def _wait_for(self, keys: Sequence[str]) -> None:
        """Wait until the store has all keys; say so after PATIENCE seconds.

        Raises:
            WorldError: it has not after `timeout` seconds.
        """
        started, has_printed = time.monotonic(), False
        while missing := [key for key in keys if not self.store.check([key])]:
            waited = time.monotonic() - started
            if waited > self.timeout:
                raise WorldError(f"gave up after {self.timeout:.0f} s: {self._explain(missing)}")
            if waited > PATIENCE and not has_printed:
                has_printed = True
                _print_once(self.launched, self._explain(missing))
            time.sleep(min(max(0.001, waited / 20), _LONGEST_POLL))  # late by a twentieth at most, at each start
            keys = missing

    def _explain(self, missing: Sequence[str]) -> str:
        ranks = [int(key.rpartition("/")[2]) if not key.endswith("/verdict") else 0 for key in missing]
        return explain_wait(self.launched, ranks)

    def _name(self, rank: int) -> str:
        return f"{rank}({self.launched.size})"


def open_rendezvous(launched: LauncherVariables, environ: Mapping[str, str], timeout: float) -> Rendezvous:
    """Open the store of the ranks that `launched` describes, and wait for the process that serves it.

    That is the launcher if it says so, as torchrun does, else rank 0.

    Args:
        timeout: seconds that a rank waits for the others.

    Raises:
        WorldError: the address can't be used, or nothing answers there in time.
    """
    store: Store
    if STORE_FILE in environ:
        store = FileStore(environ[STORE_FILE], -1)
        store.set_timeout(timedelta(seconds=timeout))
        return Rendezvous(store, launched, timeout)
    is_server = launched.rank == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listening = _listen(launched) if is_server else None
    # Rank 0 may not reach itself by the address that the others use, as behind a gateway.
    is_on_all = listening is not None and ipaddress.ip_address(listening.getsockname()[0]).is_unspecified
    try:
        with _print_after(PATIENCE, launched):
            store = TCPStore(
                "localhost" if is_on_all else launched.address,
                launched.port,
                launched.size,
                is_server,
                timedelta(seconds=timeout),
                wait_for_workers=False,
                master_listen_fd=listening.detach() if listening else None,
            )
    except DistError as error:
        raise WorldError(f"{explain_wait(launched, [0])} ({_first_line(error)})") from error
    return Rendezvous(store, launched, timeout)


def describe_start(config: Config) -> dict[str, Any]:
    """Describe what has to be equal on all ranks before data are opened: settings and versions."""
    settings = flatten(config.model_dump(mode="json"))
    shared = {key: value for key, value in settings.items() if not _is_local(key)}
    return {**shared, "version of torch": str(torch.__version__), "version of dist-train": dist_train.__version__}


def explain_wait(launched: LauncherVariables, ranks: Sequence[int]) -> str:
    """Return a message: for which ranks this one waits, the launcher variables, and what to do."""
    names = ", ".join(f"{rank}({launched.size})" for rank in ranks[:_MOST_LINES])
    more = f" and {len(ranks) - _MOST_LINES} more" if len(ranks) > _MOST_LINES else ""
    return (
        f"rank {launched.rank}({launched.size}) on host {socket.gethostname()} waits for rank {names}{more}: RANK="
        f"{launched.rank}, WORLD_SIZE={launched.size}, MASTER_ADDR={escape(launched.address, 80)} and MASTER_PORT="
        f"{launched.port} say that there are others. Start them too; or, if another launcher has left these variables, "
        f"start without them: env {' '.join(f'-u {name}' for name in LAUNCHER_VARIABLES)} ..."
    )


def _is_local(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _LOCAL_SETTINGS)


def _show(about: Mapping[str, Any], key: str) -> str:
    return escape(json.dumps(about[key], ensure_ascii=False), 200) if key in about else "not set"


def _listen(launched: LauncherVariables) -> socket.socket:
    """Listen on the address by which the other ranks know this machine, not on all of its addresses.

    A name that leads to the loopback interface, or an address that this machine does not have itself, as behind a
    translating gateway, leaves no choice: then on all.
    """
    where = f"environment: MASTER_ADDR is {escape(launched.address, 80)} and MASTER_PORT is {launched.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(launched.address, launched.port, type=socket.SOCK_STREAM)[0]
        is_loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
        if is_loopback and launched.size != launched.local_size:
            return _listen_on_all(launched.port)
        try:
            return socket.create_server((str(address[0]), launched.port), family=family)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return _listen_on_all(launched.port)
    except UnicodeError as error:  # no name of a machine looks like this
        raise WorldError(f"{where}: is no name or address of a machine") from error
    except OSError as error:
        hint = "; another process uses that port: choose another one" if error.errno == errno.EADDRINUSE else ""
        raise WorldError(f"{where}: rank 0 can't listen there: {error.strerror or error}{hint}") from error


def _listen_on_all(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


@contextmanager
def _print_after(seconds: float, launched: LauncherVariables) -> Iterator[None]:
    """Say for whom this rank waits if the block takes longer; the block may be in C++ all the time."""
    timer = threading.Timer(seconds, lambda: _print_once(launched, explain_wait(launched, [0])))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print_once(launched: LauncherVariables, text: str) -> None:
    """Print on the first rank of each machine: there is no log before the ranks have met."""
    if launched.local_rank == 0:
        print(text, file=sys.stderr, flush=True)


def _first_line(error: BaseException) -> str:
    return escape(str(error).partition("\n")[0])
