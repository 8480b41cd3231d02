"""A training that another command has started, and what can be seen of it from outside."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from dist_train.checkpoint.store import Store, read
from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.monitoring import ledger
from dist_train.run_dir import RunDir


class TrainingProcess:
    """A run that `dist-train train` trains, in this process's place or once more after it has ended."""

    def __init__(self, config: str, overrides: list[str], directory: Path, moment: int) -> None:
        self.directory = RunDir(directory)
        self.moment = moment
        self.starts = 0
        self._command = [sys.executable, "-m", "launch", "train", config, *overrides, f"run.dir={directory}"]
        self._lines: list[str] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, nproc: int, resume: str = "auto", variables: dict[str, str] | None = None) -> None:
        """Start it, or start it again; `resume`: its `run.resume`."""
        self.starts += 1
        self._process = subprocess.Popen(  # noqa: S603 (this Python, and what the user has given)
            [*self._command, f"run.resume={resume}", "--nproc", str(nproc), "--max-restarts", "1"],
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._collect_output, args=(self._process,), daemon=True)
        self._reader.start()

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def wait(self, seconds: float | None) -> bool:
        """Whether it has ended within this time; None: wait for its end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            self._reader.join()
        return self.is_over()

    def wait_for_exit(self) -> int:
        """Its exit code, once it has ended; its ranks have too by then."""
        self.wait(None)
        return self._process.returncode

    def kill(self) -> None:
        """Kill it and its ranks, if they still run."""
        pids = [
            beat.process.pid
            for beat in read_heartbeats(self.directory.path / "diagnostics").values()
            if beat.is_alive()
        ]
        for pid in [] if self.is_over() else [self.pid, *pids]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait(None)

    def output(self) -> str:
        """What it has printed so far."""
        return "".join(self._lines)

    def read_weights_hash(self) -> str | None:
        """Hash of the weights of the newest checkpoint, which is verified."""
        store = Store(self.directory.checkpoints)
        return read(store.place(store.steps()[-1])).weights_sha256 if store.steps() else None

    def read_ledger(self) -> list[ledger.Line]:
        return ledger.read(self.directory.ledger)

    def read_total_steps(self) -> int:
        """Steps of the whole run."""
        status = self.directory.read_status()
        return int(status["total_steps"]) if status else 0

    def read_resumed_step(self) -> int | None:
        """Step at which the last start, by hand or in place, has begun; None if there was only one."""
        status = self.directory.read_status()
        return int(status["started_step"]) if status and status["attempt"] > 1 else None

    def _collect_output(self, process: "subprocess.Popen[str]") -> None:
        if process.stdout is not None:
            with process.stdout:
                self._lines.extend(process.stdout)
