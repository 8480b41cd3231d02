"""Training on two machines by the commands of slurm/README.md; both machines are this one."""

import json
import re
import shlex
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT, Python

COMMANDS = re.findall(r"^(torchrun --nnodes=2 .*) # on .*$", (ROOT / "slurm" / "README.md").read_text(), re.MULTILINE)


@pytest.mark.long  # those of README.md are the same; tests/docs runs them
def test_the_printed_commands_train_on_two_nodes(tmp_path: Path, python: Python) -> None:
    assert [re.findall(r"--node-rank=(\d)", command) for command in COMMANDS] == [["0"], ["1"]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["data.name=digits", "data.global_batch=8", "train.max_steps=2", "distributed.backend=gloo"]

    def start(command: str) -> "subprocess.CompletedProcess[str]":
        here = re.sub(r"--master-addr=\S+ --master-port=\S+", f"--master-addr=127.0.0.1 --master-port={port}", command)
        here = here.replace("--nproc-per-node=4", "--nproc-per-node=1")
        _, *arguments = shlex.split(here)
        return python("-m", "torch.distributed.run", *arguments, *settings, f"run.dir={tmp_path / 'run'}")

    with ThreadPoolExecutor(2) as nodes:
        done = list(nodes.map(start, COMMANDS))
    assert [each.returncode for each in done] == [0, 0], done[0].stderr + done[1].stderr
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("done", 2)
    assert (tmp_path / "run" / "logs" / "rank_1.log").exists()
