"""Run a drill: train without a fault, then once per round with a fault, recover, and compare."""

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from dist_train.system.escape import escape
from dist_train.system.plural import format_count
from dist_train.system.read_file import list_directory, open_at_once
from launch.arguments import AUTO
from launch.drill.comparison import find_difference
from launch.drill.faults import FAULTS, EndedEarly, read_step
from launch.drill.report import HEADING, RoundResult
from launch.drill.training_process import TrainingProcess
from launch.runs.run_settings import describe_gpu_bits

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


MAX_TRIES = 6
"""Limit of the starts of one run, and of the runs of a round that ended before their fault."""
MAX_LINE = 4000  # characters of a row that are shown
USER_ERROR = 2
NEEDS_RESTART = {"stop", "preempt", "resize", "nan", "corrupt-latest", "truncate-latest", "kill-in-save"}
"""Faults that end the run. After others it continues by itself: ranks restart in place, the disk has space again."""
NAN_STEP = "DIST_TRAIN_NAN_STEP"
"""Environment variable that sets the images of one step to NaN (`dist_train.training.fault_injection`)."""
OWN = {"run.dir", "run.reproducible", "run.resume", "log.progress", "log.ledger"}
"""Settings that the drill sets itself."""
SAME = {False: "same weights", True: "same samples and learning rates"}
DEFAULT_SHARDS = 8  # distributed.shards under bitwise, where it is not set


class DrillError(Exception):
    """The run fails without a fault."""


class Drill:
    """The runs of one drill, in `<run.dir>.drill/`."""

    def __init__(self, config: "Config", path: str, overrides: tuple[str, ...], nproc: int) -> None:
        self.config, self.path, self.nproc = config, path, nproc
        self.all_overrides = overrides
        self.overrides = [each for each in overrides if each.partition("=")[0] not in OWN]
        directory = Path(config.run.dir)
        self.directory = directory.with_name(f"{directory.name}.drill")
        self._references: dict[str, tuple[TrainingProcess, float]] = {}

    def run_rounds(self, count: int, faults: Sequence[str], seed: int) -> bool:
        """Run the rounds, print a row for each and write `drill.json`; return whether all passed.

        Raises:
            ConfigError: the directory has other files, or another drill uses it.
            DrillError: the run fails without a fault.
        """
        with self._lock_directory():
            return self._run_rounds(count, faults, seed)

    def _run_rounds(self, count: int, faults: Sequence[str], seed: int) -> bool:
        on = f"{format_count(self.nproc, 'rank')} in {escape(self.directory)}"
        print(f"{format_count(count, 'round')} on {on}, seed {seed}", flush=True)
        print(HEADING, flush=True)
        random = Random(seed)  # noqa: S311 (not for secrets)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the running training is killed first
        about = {
            "config": self.path,
            "overrides": list(self.all_overrides),
            "nproc": self.nproc,
            "faults": faults,
            "seed": seed,
        }
        results: list[RoundResult] = []
        for number in range(1, count + 1):
            results.append(self.run_round(number, faults[(number - 1) % len(faults)], random))
            print(escape(results[-1].format_row(), MAX_LINE), flush=True)
            self._write_results(about, results)
        passed = sum(result.passed for result in results)
        print(f"{passed} passed, {count - passed} failed")
        return passed == count

    @contextmanager
    def _lock_directory(self) -> Iterator[None]:
        """Lock the directory and remove the runs of an earlier drill.

        Raises:
            ConfigError: the directory has other files, or another drill uses it.
        """
        from dist_train.errors import ConfigError

        names = [path.name for path in list_directory(self.directory)]
        if names and "drill.json" not in names:
            raise ConfigError(f"{self.directory}: has files of something else; move it away, or set another run.dir")
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory / "drill.lock", "w", opener=open_at_once) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"{self.directory}: another drill uses it; wait, or set another run.dir") from error
            for run in list_directory(self.directory):
                if run.is_dir() and not run.is_symlink():
                    shutil.rmtree(run)
            (self.directory / "drill.json").write_text("{}\n")
            yield

    def run_round(self, number: int, fault: str, random: Random) -> RoundResult:
        """Inject a fault at a random step, recover the run, and compare it with the one without a fault.

        Another number of ranks keeps the bits only under `bitwise`, so `resize` runs a second time under it.
        """
        tier = self.config.run.reproducible
        result = self._run_tier(number, fault, tier, random)
        if fault == "resize" and tier == "elastic":
            return result.merge(self._run_tier(number, fault, "bitwise", random))
        return result

    def _write_results(self, about: dict[str, Any], results: list[RoundResult]) -> None:
        passed = sum(result.passed for result in results)
        counts = {"passed": passed, "failed": len(results) - passed}
        content = {**about, **counts, "rounds": [asdict(result) for result in results]}
        (self.directory / "drill.json").write_text(json.dumps(content, indent=2) + "\n")

    def _run_tier(self, number: int, fault: str, tier: str, random: Random) -> RoundResult:
        reference, seconds = self._train_reference(tier)
        for attempt in range(MAX_TRIES):
            step = random.randrange(1, max(2, reference.read_total_steps()))
            run = self._create_run(f"round_{number:02}_{fault}_{tier}_{attempt}", tier, step)
            began = time.monotonic()
            try:
                reached = self._inject(run, fault, tier, random)
                self._recover(run, fault, random, tier)
            except EndedEarly:  # a short run may end before its fault
                continue
            finally:
                run.kill()
            lost = time.monotonic() - began - seconds
            return self._build_result(number, fault, tier, run, reference, reached, lost)
        return RoundResult(number, fault, step, None, 1, 0.0, 0, "every run ended before its fault", passed=False)

    def _build_result(
        self,
        number: int,
        fault: str,
        tier: str,
        run: TrainingProcess,
        reference: TrainingProcess,
        reached: int,
        lost: float,
    ) -> RoundResult:
        has_other_ranks = fault == "resize" and tier == "elastic"
        difference = find_difference(run, reference, has_other_ranks=has_other_ranks)
        source = run.read_resumed_step()
        return RoundResult(
            number=number,
            fault=fault,
            moment=reached,
            recovered_from=source,
            starts=run.starts,
            seconds_lost=round(lost, 1),
            steps_repeated=0 if source is None else max(0, reached - source),
            verdict=difference or SAME[has_other_ranks],
            passed=difference is None,
        )

    def _train_reference(self, tier: str) -> tuple[TrainingProcess, float]:
        """Return the run without a fault and its seconds; train it on the first call."""
        if tier not in self._references:
            run = self._create_run(f"undisturbed_{tier}", tier, step=0)
            began = time.monotonic()
            try:
                run.start(self._choose_ranks(tier))
                if code := run.wait_for_exit():
                    raise DrillError(f"the run without a fault ended with exit code {code}:\n{run.read_output()}")
            finally:
                run.kill()
            self._references[tier] = (run, time.monotonic() - began)
            if note := describe_gpu_bits(run.directory.path):
                print(note, flush=True)
        return self._references[tier]

    def _create_run(self, name: str, tier: str, step: int) -> TrainingProcess:
        own = [f"run.reproducible={tier}", "log.progress=off", "log.ledger=true"]
        return TrainingProcess(self.path, [*self.overrides, *own], self.directory / name, step)

    def _choose_ranks(self, tier: str) -> int:
        """Return the number of ranks of a first start: under an added `bitwise`, one that divides the shards."""
        if tier in ("elastic", self.config.run.reproducible):
            return self.nproc
        return max(size for size in range(1, self.nproc + 1) if DEFAULT_SHARDS % size == 0)

    def _inject(self, run: TrainingProcess, fault: str, tier: str, random: Random) -> int:
        """Start a run and inject the fault; return the number of steps it had finished."""
        variables = {NAN_STEP: str(run.fault_step)} if fault == "nan" else None
        run.start(self._choose_ranks(tier), variables=variables)
        FAULTS[fault](run, random)
        return max(run.fault_step, read_step(run))

    def _recover(self, run: TrainingProcess, fault: str, random: Random, tier: str) -> None:
        """Start the run again until it succeeds, as a user would.

        Raises:
            EndedEarly: the run succeeded before the fault.
        """
        code, nproc = run.wait_for_exit(), self._choose_ranks(tier)
        if code == 0 and fault in NEEDS_RESTART:
            raise EndedEarly
        while code != 0 and run.starts < MAX_TRIES:
            if fault == "resize":
                nproc = random.choice(self.list_other_sizes(nproc, tier))
            # A user error here: the only checkpoint was damaged, and the run refuses to start from zero by itself.
            run.start(nproc, resume="never" if code == USER_ERROR else "auto")
            code = run.wait_for_exit()

    def list_other_sizes(self, nproc: int, tier: str) -> list[int]:
        """Return the other numbers of ranks that this machine and, under `bitwise`, the shards allow."""
        from launch.local.training_command import resolve_ranks

        has_gpus = resolve_ranks(AUTO, self.config.distributed, os.environ) is None
        most = self.nproc if has_gpus else max(4, self.nproc)
        shards = self.config.distributed.shards or DEFAULT_SHARDS
        return [size for size in range(1, most + 1) if size != nproc and (tier == "elastic" or shards % size == 0)]
