"""Break a run in every way there is, recover as a user would, and compare the weights it ends with, bit for bit.

    dist-train drill configs/digits.yaml --rounds 20
    dist-train drill configs/digits.yaml --nproc 4 --faults kill,resize train.epochs=3

The settings are trained once undisturbed, then once a round, struck by a fault at a random step. All lies in
`<run.dir>.drill/`, with the result in its `drill.json`. Exit code 0 only if every round ends as it has to.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from launch.arguments import AUTO, number_from
from launch.commands.train import most_ranks
from launch.drill.faults import FAULTS, Missed, step_reached
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="file of settings, e.g. configs/digits.yaml")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that override the file's"
    )
    parser.add_argument(
        "--nproc", type=number_from(1, most=most_ranks()), default=2, metavar="N", help="number of ranks; default 2"
    )
    parser.add_argument(
        "--faults", type=_faults, default=list(FAULTS), metavar="A,B", help=f"of {', '.join(FAULTS)}; default: all"
    )
    parser.add_argument(
        "--rounds", type=number_from(1), default=20, metavar="N", help="runs that are struck; default 20"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drill's own random numbers; default 0")


def run(options: argparse.Namespace) -> int:
    """Train undisturbed, then once a round; print a table and write `drill.json`."""
    from dist_train.settings.loader import load_config

    config = load_config(options.config, options.overrides)
    drill = Drill(config, options.config, tuple(options.overrides), options.nproc)
    drill.clear()
    print(f"{options.rounds} rounds on {options.nproc} ranks in {drill.directory}, seed {options.seed}", flush=True)
    print(HEADING, flush=True)
    random = Random(options.seed)  # noqa: S311 (not for secrets)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end like Ctrl-C: what runs is ended first
    rounds: list[Round] = []
    about = {name: getattr(options, name) for name in ("config", "overrides", "nproc", "faults", "seed")}
    try:
        for number in range(1, options.rounds + 1):
            rounds.append(drill.round(number, options.faults[(number - 1) % len(options.faults)], random))
            print(rounds[-1].row(), flush=True)
            drill.write(about, rounds)
    except DrillError as error:
        print(error, file=sys.stderr)
        return 1
    passed = sum(ended.passed for ended in rounds)
    print(f"{passed} passed, {len(rounds) - passed} failed")
    return 0 if passed == len(rounds) else 1


def _faults(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such fault; there are {', '.join(FAULTS)}")
    return names


_ROW = "{:>5}  {:<18} {:>8}  {:<14} {:>6} {:>13} {:>15}  {}"
HEADING = _ROW.format(
    "round", "fault", "moment", "recovered from", "starts", "seconds lost", "steps repeated", "verdict"
)


class DrillError(Exception):
    """The run fails without any fault."""


@dataclass(frozen=True)
class Round:
    """One run that was struck, and how it ended."""

    number: int
    fault: str
    moment: int
    """Steps that were finished when the fault struck."""
    recovered_from: int | None
    """Step of the checkpoint that the last start, by hand or in place, went on from; None: the first start went on."""
    starts: int
    seconds_lost: float
    steps_repeated: int
    verdict: str
    passed: bool

    def with_partner(self, other: "Round") -> "Round":
        """This elastic round and the same under `bitwise` as one."""
        verdict = f"{self.verdict}; under bitwise {other.verdict}"
        return replace(
            self,
            starts=self.starts + other.starts,
            seconds_lost=round(self.seconds_lost + other.seconds_lost, 1),
            verdict=verdict,
            passed=self.passed and other.passed,
        )

    def row(self) -> str:
        """Its line of the table."""
        verdict = self.verdict if self.passed else f"FAILED: {self.verdict}"
        source = "it went on" if self.recovered_from is None else f"step {self.recovered_from}"
        return _ROW.format(
            self.number,
            self.fault,
            self.moment,
            source,
            self.starts,
            f"{self.seconds_lost:.1f}",
            self.steps_repeated,
            verdict,
        )


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
        from launch.commands.train import resolved

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
