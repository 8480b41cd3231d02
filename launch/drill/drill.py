"""The runs of a drill: one undisturbed, then one a round, struck by a fault, recovered and compared."""

import fcntl
import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from launch.arguments import AUTO
from launch.drill.faults import FAULTS, EndedEarly, read_step
from launch.drill.report import RoundResult
from launch.drill.training_process import TrainingProcess

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


TRIES = 6
"""How often a command is given, or a run struck that was over before, until the round counts as failed."""
USER_ERROR = 2
NEEDS_RESTART = {"stop", "preempt", "resize", "nan", "corrupt-latest", "truncate-latest", "kill-in-save"}
"""Faults that no run outlives by itself. A killed rank comes back in place, and a disk has room again."""
NAN_STEP = "DIST_TRAIN_NAN_STEP"
"""Variable that makes the images of one step of a start not a number (`dist_train.training.fault_injection`)."""
OWN = {"run.dir", "run.reproducible", "run.resume", "log.progress", "log.ledger"}
"""Settings that the drill gives to its runs itself."""
SAME = {False: "same weights", True: "same samples and learning rates"}
SHARDS = 8  # of a run under bitwise that says nothing else
ANYWHERE = ("samples", "lr")
"""What the ledgers of two numbers of ranks have in common under `run.reproducible: elastic`."""


class DrillError(Exception):
    """The run fails without any fault."""


class Drill:
    """The runs of one drill."""

    def __init__(self, config: "Config", path: str, overrides: tuple[str, ...], nproc: int) -> None:
        self.config, self.path, self.nproc = config, path, nproc
        self.overrides = [each for each in overrides if each.partition("=")[0] not in OWN]
        directory = Path(config.run.dir)
        self.directory = directory.with_name(f"{directory.name}.drill")
        self._undisturbed: dict[str, tuple[TrainingProcess, float]] = {}

    def prepare_directory(self) -> None:
        """Remove an earlier drill, and keep others away until this process ends.

        Raises:
            ConfigError: there is something else, or another drill.
        """
        from dist_train.errors import ConfigError

        there = [path.name for path in self.directory.iterdir()] if self.directory.exists() else []
        if there and "drill.json" not in there:
            raise ConfigError(f"{self.directory}: holds files and no drill; move it away, or set another run.dir")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = (self.directory / "drill.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{self.directory}: another drill runs there; wait, or set another run.dir") from error
        for run in self.directory.iterdir():
            if run.is_dir():
                shutil.rmtree(run)
        (self.directory / "drill.json").write_text("{}\n")

    def write_results(self, about: dict[str, Any], rounds: list[RoundResult]) -> None:
        """Write down the rounds so far."""
        passed = sum(ended.passed for ended in rounds)
        counts = {"passed": passed, "failed": len(rounds) - passed}
        result = {**about, **counts, "rounds": [asdict(ended) for ended in rounds]}
        (self.directory / "drill.json").write_text(json.dumps(result, indent=2) + "\n")

    def run_round(self, number: int, fault: str, random: Random) -> RoundResult:
        """Strike a run with a fault at a random step, recover, and compare it with the undisturbed one.

        Another number of ranks keeps the bits only under `bitwise`, so an elastic run that is resized has a partner.
        """
        tier = self.config.run.reproducible
        struck = self._run_tier(number, fault, tier, random)
        if fault == "resize" and tier == "elastic":
            return struck.merge(self._run_tier(number, fault, "bitwise", random))
        return struck

    def _run_tier(self, number: int, fault: str, tier: str, random: Random) -> RoundResult:
        undisturbed, seconds = self._get_undisturbed(tier)
        for attempt in range(TRIES):
            moment = random.randrange(1, max(2, undisturbed.read_total_steps()))
            struck = self._create_run(f"round_{number:02}_{fault}_{tier}_{attempt}", tier, moment)
            began = time.monotonic()
            try:
                reached = self._strike(struck, fault, tier, random)
                self._recover(struck, fault, random, tier)
            except EndedEarly:  # a short run may be over before its moment
                continue
            finally:
                struck.kill()
            lost = time.monotonic() - began - seconds
            return self._build_result(number, fault, tier, struck, undisturbed, reached, lost)
        return RoundResult(number, fault, moment, None, 1, 0.0, 0, "every run was over before its moment", passed=False)

    def _build_result(
        self,
        number: int,
        fault: str,
        tier: str,
        struck: TrainingProcess,
        undisturbed: TrainingProcess,
        reached: int,
        lost: float,
    ) -> RoundResult:
        fault_found = self._find_difference(struck, undisturbed, fault, tier)
        source = struck.read_resumed_step()
        return RoundResult(
            number=number,
            fault=fault,
            moment=reached,
            recovered_from=source,
            starts=struck.starts,
            seconds_lost=round(lost, 1),
            steps_repeated=0 if source is None else max(0, reached - source),
            verdict=fault_found or SAME[fault == "resize" and tier == "elastic"],
            passed=fault_found is None,
        )

    def _get_undisturbed(self, tier: str) -> tuple[TrainingProcess, float]:
        """The run that nothing strikes, and its seconds; trained when it is first asked for."""
        if tier not in self._undisturbed:
            run = self._create_run(f"undisturbed_{tier}", tier, moment=0)
            began = time.monotonic()
            try:
                run.start(self._choose_ranks(tier))
                if run.wait_for_exit() != 0:
                    raise DrillError(f"the undisturbed run ended with exit code {run.wait_for_exit()}:\n{run.output()}")
            finally:
                run.kill()
            self._undisturbed[tier] = (run, time.monotonic() - began)
        return self._undisturbed[tier]

    def _create_run(self, name: str, tier: str, moment: int) -> TrainingProcess:
        overrides = [
            *self.overrides,
            f"run.reproducible={tier}",
            "log.progress=off",
            "log.ledger=true",
        ]
        return TrainingProcess(self.path, overrides, self.directory / name, moment)

    def _choose_ranks(self, tier: str) -> int:
        """Ranks of a first start: as many as were asked for, or as share the shards of the tier equally."""
        if tier in ("elastic", self.config.run.reproducible):
            return self.nproc
        return max(size for size in range(1, self.nproc + 1) if SHARDS % size == 0)

    def _strike(self, run: TrainingProcess, fault: str, tier: str, random: Random) -> int:
        """Start a run and strike it; returns the steps it had finished."""
        run.start(self._choose_ranks(tier), variables={NAN_STEP: str(run.moment)} if fault == "nan" else None)
        FAULTS[fault](run, random)
        return max(run.moment, read_step(run))

    def _recover(self, run: TrainingProcess, fault: str, random: Random, tier: str) -> None:
        """Give the command again as long as that helps, as a user would.

        Raises:
            EndedEarly: the run ended well and was never struck.
        """
        code, nproc = run.wait_for_exit(), self._choose_ranks(tier)
        if code == 0 and fault in NEEDS_RESTART:
            raise EndedEarly
        while code != 0 and run.starts < TRIES:
            if fault == "resize":
                nproc = random.choice(self._list_other_sizes(nproc, tier))
            # A user error here is a run whose only checkpoint was damaged: it refuses to start from zero unasked.
            run.start(nproc, resume="never" if code == USER_ERROR else "auto")
            code = run.wait_for_exit()

    def _list_other_sizes(self, nproc: int, tier: str) -> list[int]:
        """Other numbers of ranks that this machine and the shards allow."""
        from launch.local.training_command import resolve_ranks

        has_gpus = resolve_ranks(AUTO, self.config.distributed, os.environ) is None
        most = self.nproc if has_gpus else max(4, self.nproc)
        shards = self.config.distributed.shards or SHARDS
        return [size for size in range(1, most + 1) if size != nproc and (tier == "elastic" or shards % size == 0)]

    def _find_difference(self, run: TrainingProcess, undisturbed: TrainingProcess, fault: str, tier: str) -> str | None:
        """What is wrong with the end of a run; None: nothing."""
        from dist_train.monitoring.ledger import PHASES, compare

        if run.wait_for_exit() != 0:
            return (
                f"ended with exit code {run.wait_for_exit()} after {run.starts} starts: {run.output().strip()[-300:]}"
            )
        is_elastic = fault == "resize" and tier == "elastic"
        parting = compare(
            run.read_ledger(), undisturbed.read_ledger(), ANYWHERE if is_elastic else tuple(PHASES)
        ).divergence
        if parting:
            return f"parts from the undisturbed run at step {parting.step} in {parting.phase}: {parting.what}"
        if not is_elastic and run.read_weights_hash() != undisturbed.read_weights_hash():
            return f"weights {run.read_weights_hash()}, undisturbed {undisturbed.read_weights_hash()}"
        return None
