"""A training in a process of its own, with its files and its output."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from dist_train.checkpoint.reader import read
from dist_train.checkpoint.store import Store
from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.monitoring import ledger
from dist_train.run_dir import RunDir
from dist_train.system.cpu import count_cores
from dist_train.system.process import signal_process
from launch.local.training_command import protect_imports


class TrainingProcess:
    """A `dist-train train` command that can be started again after it has ended."""

    def __init__(self, config: str, overrides: list[str], directory: Path, fault_step: int) -> None:
        """`fault_step`: the step after which a fault is injected."""
        self.directory = RunDir(directory)
        self.fault_step = fault_step
        self.starts = 0
        self._command = [
            sys.executable,
            "-m",
            "dist_train.command",
            "train",
            config,
            *overrides,
            f"run.dir={directory}",
        ]
        self._lines: list[str] = []

    @property
    def pid(self) -> int:
        """The process id of the launcher."""
        return self._process.pid

    def start(self, nproc: int, resume: str = "auto", variables: dict[str, str] | None = None) -> None:
        """Start the training on `nproc` ranks with `run.resume=resume` and extra environment variables."""
        self.starts += 1
        self._process = subprocess.Popen(  # noqa: S603 (this Python, and what the user has given)
            [*self._command, f"run.resume={resume}", "--nproc", str(nproc), "--max-restarts", "1"],
            # Every start gets the same threads, whatever else the machine does: the drill compares bits.
            env={"DIST_TRAIN_CORES": str(count_cores()), **os.environ, **protect_imports(), **(variables or {})},
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
        """Wait for the end for at most `seconds` (None: without a limit); return whether it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            self._reader.join()
        return self.is_over()

    def wait_for_exit(self) -> int:
        """Wait for the end of the launcher and its ranks; return the exit code."""
        self.wait(None)
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the launcher, if it still runs."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the launcher and its ranks, if they still run."""
        beats = read_heartbeats(self.directory.path / "diagnostics").values()
        if not self.is_over():
            self.send(signal.SIGKILL)
            for beat in beats:
                signal_process(beat.process.pid, signal.SIGKILL, beat.is_alive)
        self.wait(None)

    def read_output(self) -> str:
        """Return the output of all starts so far."""
        return "".join(self._lines)

    def read_weights_hash(self) -> str | None:
        """Verify the newest checkpoint and return the SHA-256 of its weights; None without a checkpoint."""
        store = Store(self.directory.checkpoints)
        return read(store.path(store.steps()[-1])).weights_sha256 if store.steps() else None

    def read_ledger(self) -> list[ledger.Line]:
        return ledger.read(self.directory.ledger)

    def read_total_steps(self) -> int:
        """Return the number of steps of the whole run; 0 if it wrote no status."""
        status = self.directory.read_status()
        return int(status["total_steps"]) if status else 0

    def read_resumed_step(self) -> int | None:
        """Return the step at which the last start, by hand or in place, began; None if there was only one."""
        status = self.directory.read_status()
        return int(status["started_step"]) if status and status["attempt"] > 1 else None

    def _collect_output(self, process: "subprocess.Popen[str]") -> None:
        if process.stdout is not None:
            with process.stdout:
                self._lines.extend(process.stdout)
