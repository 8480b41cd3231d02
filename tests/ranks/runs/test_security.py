"""A client that connects to the ports of a training can't run code; on one machine only loopback listens."""

import base64
import json
import multiprocessing
import os
import pickle
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tests.conftest import ROOT, children_of
from tests.ranks.runs.fake_slurm import fake_slurm

pytestmark = pytest.mark.slow

ENDLESS = (
    *("data.name=synthetic", "data.num_train=64", "data.num_test=16", "data.global_batch=16", "train.epochs=1000000"),
    *("eval.every_epochs=0", "distributed.backend=gloo", "distributed.threads=1", "log.every_steps=100"),
)
SERVING = 7.0  # seconds; an agent with a c10d rendezvous reads it every 5


class Touch:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self._path), "w")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def family(pid: int) -> set[int]:
    return {pid}.union(*map(family, children_of(pid)))


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """Addresses, in hexadecimal, and ports on which these processes listen."""
    inodes = set()
    for pid in pids:
        with suppress(OSError):
            inodes |= {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


def attack(port: int, payload: str) -> None:
    """Put the payload under every key of a rendezvous, if a store answers on this port."""
    store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=2))
    for key in store.list_keys():
        if "rendezvous" in key:
            store.set(key, payload)


@pytest.fixture
def run() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Processes that are ended with all that they have started."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        for pid in family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def command_lines(port: int) -> dict[str, list[list[str]]]:
    """The trainings that README and `slurm/README.md` print, cut down to this machine."""
    texts = [(ROOT / name).read_text() for name in ("README.md", "slurm/README.md")]
    printed = [line for text in texts for line in re.findall(r"^torchrun (.*?)(?: *#.*)?$", text, re.MULTILINE)]
    changes = {
        "distributed.backend=gloo": "log.tensorboard=false",
        "node0": "127.0.0.1",
        "29500": str(port),
        "per-node=4": "per-node=1",
        "cifar10_resnet18": "digits",
    }
    lines = []
    for line in dict.fromkeys(printed):  # both pages print some
        here = re.sub("|".join(changes), lambda found: changes[found[0]], line)
        lines.append([sys.executable, "-m", "torch.distributed.run", *shlex.split(here)])
    agent = [sys.executable, "-m", "launch", "train", "configs/digits.yaml", "--nproc", "2", "--max-restarts", "1"]
    return {
        "torchrun": [line for line in lines if "--nnodes=2" not in line],
        "torchrun on two machines": [line for line in lines if "--nnodes=2" in line],
        "dist-train": [agent],
    }


PORT = free_port()
COMMANDS = command_lines(PORT)


def start(lines: list[list[str]], directory: Path) -> list["subprocess.Popen[bytes]"]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = []
    for number, line in enumerate(lines):
        with (directory / f"output-{number}").open("wb") as output:
            command = [*line, *ENDLESS, f"run.dir={directory}/run"]
            started.append(subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=output))
    return started


def wait_for_steps(processes: list["subprocess.Popen[bytes]"], directory: Path) -> None:
    deadline = time.monotonic() + 120
    metrics = directory / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        output = "".join(path.read_text() for path in directory.glob("output-*"))
        assert all(process.poll() is None for process in processes), output
        assert time.monotonic() < deadline, output
        time.sleep(0.1)


def assert_harmless(processes: list["subprocess.Popen[bytes]"], directory: Path) -> set[tuple[str, int]]:
    """Attack all ports at once, and wait whether that does any harm; returns what listens."""
    marker = directory / "taken over"
    pids = set().union(*(family(process.pid) for process in processes))
    for rank in (pid for pid in pids if not children_of(pid)):
        os.setpriority(os.PRIO_PROCESS, rank, 19)  # it trains on; other tests need the cores
    sockets = listening(pids)
    payload = pickle.dumps(Touch(marker))
    start_process = multiprocessing.get_context("fork").Process
    text = base64.b64encode(payload).decode()
    attacks = [start_process(target=attack, args=(port, text)) for _, port in sockets]
    for each in attacks:
        each.start()
    deadline = time.monotonic() + SERVING
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    for each in attacks:
        each.kill()  # it waits for ever where something else answers, such as Gloo
        each.join()
    assert not marker.exists()
    return sockets


def test_there_is_each_kind_of_command() -> None:
    assert {name: len(lines) for name, lines in COMMANDS.items()} == {
        "torchrun": 1,
        "torchrun on two machines": 2,
        "dist-train": 1,
    }


@pytest.mark.parametrize("name", [pytest.param("torchrun", marks=pytest.mark.long), *list(COMMANDS)[1:]])
def test_a_printed_command_unpickles_nothing(tmp_path: Path, run: list["subprocess.Popen[bytes]"], name: str) -> None:
    run += start(COMMANDS[name], tmp_path)
    wait_for_steps(run, tmp_path)
    sockets = assert_harmless(run, tmp_path)
    if name == "dist-train":
        assert {address for address, _ in sockets} == {"0100007F"}  # 127.0.0.1


@pytest.mark.parametrize("nodes", [pytest.param(1, marks=pytest.mark.long), 2])
def test_the_batch_script_unpickles_nothing(
    tmp_path: Path, run: list["subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch, nodes: int
) -> None:
    for variable, value in fake_slurm(tmp_path, nodes, 2 // nodes).items():
        monkeypatch.setenv(variable, value)
    run += start([["bash", "slurm/train.sbatch", "configs/digits.yaml"]], tmp_path)
    wait_for_steps(run, tmp_path)
    sockets = assert_harmless(run, tmp_path)
    if nodes == 1:
        assert {address for address, _ in sockets} <= {"0100007F"}


def test_the_attack_works_where_it_should(tmp_path: Path, run: list["subprocess.Popen[bytes]"]) -> None:
    """torchrun's c10d rendezvous, which no page of ours prints."""
    run += start(
        [[sys.executable, "-m", "torch.distributed.run", "--standalone", "-m", "dist_train", "configs/digits.yaml"]],
        tmp_path,
    )
    wait_for_steps(run, tmp_path)
    with pytest.raises(AssertionError):
        assert_harmless(run, tmp_path)


def test_a_killed_rank_of_a_job_is_replaced_in_place(
    tmp_path: Path, run: list["subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in fake_slurm(tmp_path, 2, 1).items():
        monkeypatch.setenv(variable, value)
    run += start([["bash", "slurm/train.sbatch", "configs/digits.yaml", "checkpoint.every_steps=5"]], tmp_path)
    wait_for_steps(run, tmp_path)
    pid = json.loads((tmp_path / "run" / "status.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (status := json.loads((tmp_path / "run" / "status.json").read_text()))["attempt"] == 1:
        assert time.monotonic() < deadline, (tmp_path / "output-0").read_text()
        time.sleep(0.1)
    assert (status["state"], status["restarts"], status["attempt"]) == ("running", 1, 2)
