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
from launch.drill.faults import FAULTS, Missed, step_reached
from launch.drill.report import Round
from launch.drill.training_process import Started

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


TRIES = 6
"""How often a command is given, or a run struck that was over before, until the round counts as failed."""
USER_ERROR = 2
NEEDS_A_START = {"stop", "preempt", "resize", "nan", "corrupt-latest", "truncate-latest", "kill-in-save"}
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
        self._undisturbed: dict[str, tuple[Started, float]] = {}

    def clear(self) -> None:
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

    def write(self, about: dict[str, Any], rounds: list[Round]) -> None:
        """Write down the rounds so far."""
        passed = sum(ended.passed for ended in rounds)
        counts = {"passed": passed, "failed": len(rounds) - passed}
        result = {**about, **counts, "rounds": [asdict(ended) for ended in rounds]}
        (self.directory / "drill.json").write_text(json.dumps(result, indent=2) + "\n")

    def round(self, number: int, fault: str, random: Random) -> Round:
        """Strike a run with a fault at a random step, recover, and compare it with the undisturbed one.

        Another number of ranks keeps the bits only under `bitwise`, so an elastic run that is resized has a partner.
        """
        tier = self.config.run.reproducible
        struck = self._round(number, fault, tier, random)
        if fault == "resize" and tier == "elastic":
            return struck.with_partner(self._round(number, fault, "bitwise", random))
        return struck

    def _round(self, number: int, fault: str, tier: str, random: Random) -> Round:
        undisturbed, seconds = self._undisturbed_of(tier)
        for attempt in range(TRIES):
            moment = random.randrange(1, max(2, undisturbed.steps()))
            struck = self._run(f"round_{number:02}_{fault}_{tier}_{attempt}", tier, moment)
            began = time.monotonic()
            try:
                reached = self._strike(struck, fault, tier, random)
                self._recover(struck, fault, random, tier)
            except Missed:  # a short run may be over before its moment
                continue
            finally:
                struck.end()
            lost = time.monotonic() - began - seconds
            return self._ended(number, fault, tier, struck, undisturbed, reached, lost)
        return Round(number, fault, moment, None, 1, 0.0, 0, "every run was over before its moment", passed=False)

    def _ended(
        self, number: int, fault: str, tier: str, struck: Started, undisturbed: Started, reached: int, lost: float
    ) -> Round:
        fault_found = self._verdict(struck, undisturbed, fault, tier)
        source = struck.went_on_from()
        return Round(
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

    def _undisturbed_of(self, tier: str) -> tuple[Started, float]:
        """The run that nothing strikes, and its seconds; trained when it is first asked for."""
        if tier not in self._undisturbed:
            run = self._run(f"undisturbed_{tier}", tier, moment=0)
            began = time.monotonic()
            try:
                run.start(self._nproc(tier))
                if run.code() != 0:
                    raise DrillError(f"the undisturbed run ended with exit code {run.code()}:\n{run.output()}")
            finally:
                run.end()
            self._undisturbed[tier] = (run, time.monotonic() - began)
        return self._undisturbed[tier]

    def _run(self, name: str, tier: str, moment: int) -> Started:
        overrides = [
            *self.overrides,
            f"run.reproducible={tier}",
            "log.progress=off",
            "log.ledger=true",
        ]
        return Started(self.path, overrides, self.directory / name, moment)

    def _nproc(self, tier: str) -> int:
        """Ranks of a first start: as many as were asked for, or as share the shards of the tier equally."""
        if tier in ("elastic", self.config.run.reproducible):
            return self.nproc
        return max(size for size in range(1, self.nproc + 1) if SHARDS % size == 0)

    def _strike(self, run: Started, fault: str, tier: str, random: Random) -> int:
        """Start a run and strike it; returns the steps it had finished."""
        run.start(self._nproc(tier), variables={NAN_STEP: str(run.moment)} if fault == "nan" else None)
        FAULTS[fault](run, random)
        return max(run.moment, step_reached(run))

    def _recover(self, run: Started, fault: str, random: Random, tier: str) -> None:
        """Give the command again as long as that helps, as a user would.

        Raises:
            Missed: the run ended well and was never struck.
        """
        code, nproc = run.code(), self._nproc(tier)
        if code == 0 and fault in NEEDS_A_START:
            raise Missed
        while code != 0 and run.starts < TRIES:
            if fault == "resize":
                nproc = random.choice(self._sizes(nproc, tier))
            # A user error here is a run whose only checkpoint was damaged: it refuses to start from zero unasked.
            run.start(nproc, resume="never" if code == USER_ERROR else "auto")
            code = run.code()

    def _sizes(self, nproc: int, tier: str) -> list[int]:
        """Other numbers of ranks that this machine and the shards allow."""
        from launch.local.training_command import resolved

        has_gpus = resolved(AUTO, self.config.distributed, os.environ) is None
        most = self.nproc if has_gpus else max(4, self.nproc)
        shards = self.config.distributed.shards or SHARDS
        return [size for size in range(1, most + 1) if size != nproc and (tier == "elastic" or shards % size == 0)]

    def _verdict(self, run: Started, undisturbed: Started, fault: str, tier: str) -> str | None:
        """What is wrong with the end of a run; None: nothing."""
        from dist_train.monitoring.ledger import PHASES, compare

        if run.code() != 0:
            return f"ended with exit code {run.code()} after {run.starts} starts: {run.output().strip()[-300:]}"
        is_elastic = fault == "resize" and tier == "elastic"
        parting = compare(run.ledger(), undisturbed.ledger(), ANYWHERE if is_elastic else tuple(PHASES)).divergence
        if parting:
            return f"parts from the undisturbed run at step {parting.step} in {parting.phase}: {parting.what}"
        if not is_elastic and run.weights() != undisturbed.weights():
            return f"weights {run.weights()}, undisturbed {undisturbed.weights()}"
        return None
