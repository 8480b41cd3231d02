"""Runs of `dist-train train` that are killed and stopped from outside: how they are watched, hit and judged.

A fork that has torch imported does what the command replaces itself by.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from dist_train.checkpoint.store import Store
from dist_train.data.sampler import GlobalBatchSampler
from dist_train.diagnostics.heartbeat import PHASES, Heartbeat, Phase, read_heartbeats
from dist_train.monitoring import ledger, ledger_comparison
from dist_train.monitoring.metrics import read_lines
from launch.local.training_command import build_command, build_environment
from tests.conftest import children_of, command_of
from tests.forkserver import ForkServer

SEED, SAMPLES, BATCH, EPOCHS = 7, 152, 30, 12
STEPS = 72
# 152 samples in batches of 30: the last batch of an epoch has 2, so some rank or shard has none there. The saves fall
# on other steps than the evaluations, and old checkpoints are removed while new ones are written.
CONFIG = f"""
run: {{seed: {SEED}}}
data: {{name: synthetic, num_train: {SAMPLES}, num_test: 70, global_batch: {BATCH}, validation: 0.0,
       augment: {{crop_padding: 2, flip: true, cutout: 6}}}}
model: {{name: mnist_cnn, dropout: 0.3}}
optim: {{name: sgd, lr: 0.02, momentum: 0.9, schedule: cosine, warmup_epochs: 0.5}}
train: {{epochs: {EPOCHS}, micro_batch: 8, ema_decay: 0.8, max_grad_norm: 1.0}}
loss: {{name: cross_entropy, args: {{label_smoothing: 0.1}}}}
distributed: {{backend: gloo, threads: 1}}
eval: {{every_epochs: 2}}
checkpoint: {{every_steps: 4, keep_last: 3}}
log: {{every_steps: 3, tensorboard: false, weights_every_steps: 1}}
"""
# On one machine as on several: Gloo adds up in another order than ranks do that share memory.
ON_MACHINES = CONFIG.replace("threads: 1}", "threads: 1, shared_memory: off}")
HANG = 60.0  # seconds; a start takes two to five
LOOK = 0.001  # seconds between two looks at a run: a step takes five to thirty times as long
LAUNCHER = "the launcher"
EVERY_RANK = "all ranks"


@dataclass(frozen=True)
class Kill:
    """One SIGKILL, or one for each rank: where the run has to be, and whom it hits."""

    when: str
    """`start`: soon after the ranks are there; `step`: some steps later than the newest checkpoint; `save`: while a
    checkpoint is being written; `end`: after the last step."""
    after: int
    """For `start` twentieths of a second, for `step` steps."""
    phase: Phase
    """What a rank is about in that step."""
    whom: int | str
    """Number of a rank, taken modulo their number, or LAUNCHER, or EVERY_RANK."""

    @property
    def place(self) -> tuple[int, int]:
        return (STEPS if self.when == "end" else self.after, PHASES.index(self.phase))


@dataclass(frozen=True)
class Start:
    """One command: its ranks, and the kills that come one after the other, all but the last with a restart in place."""

    ranks: int
    kills: tuple[Kill, ...] = ()

    @property
    def restarts(self) -> int:
        return max(0, len(self.kills) - 1)


@dataclass(frozen=True)
class Schedule:
    """A run from its first start to its end."""

    mode: str
    """`elastic` or `bitwise`."""
    starts: tuple[Start, ...]
    """The last one is not disturbed."""

    @property
    def has_the_bits_of(self) -> int | None:
        """The number of ranks whose undisturbed run must have the same bits, None where none must."""
        if self.mode == "bitwise":
            return 1
        sizes = {start.ranks for start in self.starts}
        return sizes.pop() if len(sizes) == 1 else None


@dataclass
class Tally:
    """What has happened, counted by subject and kind."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, subject: str, kind: str) -> None:
        self.counts.setdefault(subject, Counter())[kind] += 1

    def __getitem__(self, subject: str) -> int:
        return sum(self.counts.get(subject, {}).values())

    def rows(self) -> list[str]:
        """A table's rows: subject, kind, number."""
        return [
            f"| {subject} | {kind} | {number} |"
            for subject, kinds in self.counts.items()
            for kind, number in sorted(kinds.items())
        ]


class Run:
    """A command that trains in `directory`, as a context manager that leaves no process behind."""

    def __init__(self, directory: Path, server: ForkServer, mode: str, start: Start) -> None:
        self.directory, self.start = directory, start
        self._errors = directory.with_suffix(".errors")
        self._before: set[int] = set()
        config = directory.with_suffix(".yaml")
        config.write_text(CONFIG)
        settings = [f"run.dir={directory}", f"run.reproducible={mode}", f"data.cache={directory.parent / 'cache'}"]
        _, *command = build_command([str(config), *settings], start.ranks, start.restarts)
        environ = {**build_environment(start.ranks, server.environ), "PYTHONFAULTHANDLER": "1"}
        with self._errors.open("w") as errors, Path(os.devnull).open("w") as nowhere:
            self.process = server.fork(command, environ, nowhere.fileno(), errors.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def errors(self) -> str:
        return self._errors.read_text()

    def end(self) -> int:
        """Wait for the end; returns the exit code, minus the signal where one has ended it."""
        try:
            return self.process.wait(HANG)
        except subprocess.TimeoutExpired:
            raise self._hang() from None

    def wait_for(self, condition: Callable[[], object]) -> bool:
        """Wait until it holds; False where the run has ended before."""
        deadline = time.monotonic() + HANG
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise self._hang()
            time.sleep(LOOK)
        return True

    def _hang(self) -> AssertionError:
        """What to say of a run that takes too long: where each rank is, with the stacks that SIGABRT prints."""
        beats = {
            rank: (beat.phase, beat.step) for rank, beat in read_heartbeats(self.directory / "diagnostics").items()
        }
        ranks = sorted(self._ranks())
        for pid in ranks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
            time.sleep(0.2)  # one stack after the other
        return AssertionError(f"{self.start}: after {HANG} s ranks {ranks} are at {beats}\n{self.errors()}")

    def suffer(self, kill: Kill, tally: Tally) -> bool:
        """Wait for the moment and kill; says whether there was something to kill."""
        if not self.wait_for(lambda: len(self._ranks() - self._before) == self.start.ranks):
            return False
        ranks = sorted(self._ranks() - self._before)
        self._before.update(ranks)
        if not self.wait_for(self._moment(kill, ranks)):
            return False
        judged = self._judged()
        victims = [self.process.pid] if kill.whom == LAUNCHER else _victims(kill, ranks)
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        beats = read_heartbeats(self.directory / "diagnostics")
        self.wait_for(lambda: self._judged() > judged)
        if self._judged() == judged and self.process.returncode != -signal.SIGKILL:
            return False
        hit = [beat for beat in beats.values() if beat.process.pid in (ranks if kill.whom == LAUNCHER else victims)]
        self._count(kill, hit, tally)
        return True

    def _moment(self, kill: Kill, ranks: list[int]) -> Callable[[], bool]:
        begun, step, number = time.monotonic(), *kill.place
        first = newest(self.directory) if kill.when == "step" else 0

        def has_come() -> bool:
            if kill.when == "start":
                return time.monotonic() > begun + kill.after / 20
            if kill.when == "save":
                return bool(half_written(self.directory))
            beats = read_heartbeats(self.directory / "diagnostics").values()
            target = (min(first + step, STEPS), number)
            return any(beat.progress >= target for beat in beats if beat.process.pid in ranks and beat.phase != "start")

        return has_come

    def _count(self, kill: Kill, hit: list[Heartbeat], tally: Tally) -> None:
        whom = kill.whom if isinstance(kill.whom, str) else "one rank"
        tally.add("kill of", "the only process" if self.process.pid in self._before else whom)
        tally.add("killed rank was about", hit[0].phase if hit else "to give its first sign of life")
        pids = {str(beat.process.pid) for beat in hit}
        if any(name.rpartition(".")[2] in (*pids, "old") for name in half_written(self.directory)):
            tally.add("checkpoint left", "half written or half removed")

    def _judged(self) -> int:
        """How often the agent has reported a rank that was killed."""
        return len(re.findall(r"^rank \d+\(\d+\) was killed by SIGKILL at ", self.errors(), re.MULTILINE))

    def failed(self) -> int:
        """How often the agent has reported a rank that failed without being killed."""
        return len(re.findall(r"^rank \d+\(\d+\) failed ", self.errors(), re.MULTILINE))

    def _ranks(self) -> set[int]:
        """The process itself where it has no agent, and the agent's forks, which have its command line."""
        if self.start.ranks == 1 and not self.start.restarts:
            return {self.process.pid}
        command = command_of(self.process.pid)
        return {child for child in children_of(self.process.pid) if command_of(child) == command}


def _victims(kill: Kill, ranks: list[int]) -> list[int]:
    return ranks if isinstance(kill.whom, str) else [ranks[kill.whom % len(ranks)]]


def newest(run: Path) -> int:
    """Step of the newest checkpoint, 0 where there is none."""
    return max(Store(run / "checkpoints").steps(), default=0)


def half_written(run: Path) -> list[str]:
    """Names of checkpoints that are being written or removed, or were when a kill came."""
    places = [path for path in (run / "checkpoints").glob("*step_*") if path.is_dir()]
    return [path.name for path in places if path.name.startswith(".") or not (path / "manifest.json").exists()]


def assert_checkpoints_are_undamaged(run: Path, at_least: int) -> None:
    """Every checkpoint can be read, none was ever found damaged, and the newest is of step `at_least` or later."""
    store = Store(run / "checkpoints")
    assert [entry.fault for entry in store.entries(verify=True) if entry.fault] == []
    assert not store.quarantined.exists()
    assert newest(run) >= at_least, "a checkpoint that was there is lost"


def assert_every_sample_once(run: Path) -> None:
    """The ledger has each step once, with the samples that the seed says, and every epoch has each sample once."""
    lines = [json.loads(text) for text in (run / "ledger.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    sampler = GlobalBatchSampler(
        range(SAMPLES), BATCH, num_replicas=1, rank=0, seed=SEED, start_step=0, stop_step=STEPS
    )
    batches = list(sampler)
    an_epoch = STEPS // EPOCHS
    for epoch in range(EPOCHS):
        seen = [sample for batch in batches[epoch * an_epoch : (epoch + 1) * an_epoch] for sample in batch]
        assert sorted(seen) == list(range(SAMPLES))
    assert [line["samples"] for line in lines] == [_hash(batch) for batch in batches]


def _hash(samples: list[int]) -> str:
    """As the ledger's documentation has it."""
    numbers = torch.tensor(samples, dtype=torch.int64).numpy().tobytes()
    return hashlib.blake2b(numbers, digest_size=8).hexdigest()


def assert_same_bits(run: Path, reference: Path) -> None:
    """The final weights, and what the ledger has of every step, are those of the undisturbed run."""
    assert weights(run) == weights(reference)
    assert _parting(run, reference, tuple(ledger_comparison.PHASES)) is None


def assert_same_course(run: Path, reference: Path) -> None:
    """Check what must not depend on the ranks: samples and learning rate of each step, and the lines of metrics."""
    assert _parting(run, reference, ("samples", "lr")) is None
    assert _reported(run) == _reported(reference)


def weights(run: Path) -> str:
    manifest = json.loads((run / "checkpoints" / "latest" / "manifest.json").read_text())
    assert manifest["step"] == STEPS
    return str(manifest["weights_sha256"])


def _parting(run: Path, reference: Path, fields: tuple[str, ...]) -> ledger_comparison.Divergence | None:
    first, second = (ledger.read(each / "ledger.jsonl") for each in (run, reference))
    return ledger_comparison.compare(first, second, fields).divergence


def _reported(run: Path) -> list[tuple[Any, ...]]:
    return [
        tuple(line.get(key) for key in ("kind", "split", "step", "count")) for line in read_lines(run / "metrics.jsonl")
    ]
