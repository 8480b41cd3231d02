"""What all measures of one session share, and how they run `dist_train`."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare.checkout import Checkout
from benchmarks.compare.workloads import Workload
from benchmarks.processes import FailedError, Outcome, run


@dataclass
class Session:
    """Options of a session, and what its measures have found out about the machine."""

    directory: Path
    """For temporary files; removed at the end."""
    device: str
    """`cpu` or `cuda`."""
    quick: bool
    peers_python: Path
    """Python of the environment that has the peers."""
    checkout: Checkout = field(default_factory=Checkout)
    """The version of dist-train that is measured."""
    workers: dict[tuple[str, int, str], int] = field(default_factory=dict)
    """The best number of DataLoader workers by workload, ranks, and peer and precision."""
    choices: dict[tuple[str, int, str], dict[str, Any]] = field(default_factory=dict)
    """What a run of ours has chosen (`choices` of `env.json`), by workload, ranks and variant."""
    _made: int = 0

    def path(self, name: str) -> Path:
        """A new path in the session's directory."""
        self._made += 1
        return self.directory / f"{name}-{self._made}"


def torchrun(python: str | Path, ranks: int) -> list[str]:
    """The start of a command that runs `-m MODULE` with torchrun on this machine."""
    return [str(python), "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]


def python_or_torchrun(python: str | Path, ranks: int) -> list[str]:
    """The same, and plain Python for one rank."""
    return torchrun(python, ranks) if ranks > 1 else [str(python)]


@dataclass(frozen=True)
class OurRun:
    """A run of `dist_train` that has ended, and its directory."""

    outcome: Outcome
    directory: Path

    def readings(self, kind: str = "train") -> list[dict[str, Any]]:
        """The lines of this kind in `metrics.jsonl`."""
        return [line for line in read_lines(self.directory / "metrics.jsonl") if line["kind"] == kind]

    @property
    def choices(self) -> dict[str, Any]:
        """What the run has chosen for settings that are `auto`."""
        content = json.loads((self.directory / "env.json").read_text(encoding="utf-8"))
        return dict(content["choices"])


def train(
    session: Session,
    workload: Workload,
    ranks: int,
    *settings: str,
    directory: Path | None = None,
    launcher: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> OurRun:
    """Train a workload by the ordinary command, to its end.

    Args:
        settings: more `key=value`, in this version's words.
        directory: of the run; by default a new one.
        launcher: the command before the settings file; by default `python -m dist_train`, under torchrun for several
            ranks.
        flags: for the launcher, after the settings.

    Raises:
        FailedError: the run failed.
    """
    directory = directory or session.path(f"ours-{workload.name}")
    checkout = session.checkout
    begin = launcher or [*python_or_torchrun(sys.executable, ranks), "-m", "dist_train"]
    overrides = merge_settings(own_settings(session, workload), [f"run.dir={directory}", *settings])
    command = [*begin, str(checkout.root / "configs" / workload.recipe), *map(checkout.translate, overrides), *flags]
    return OurRun(run(command, root=checkout.root), directory)


def own_settings(session: Session, workload: Workload) -> list[str]:
    """Settings of every run of ours: no evaluation, and the loss is logged as often as by the peers."""
    device = ["distributed.backend=gloo"] if session.device == "cpu" else []
    return [
        *workload.overrides, f"log.every_steps={workload.log_every_steps}", "eval.every_epochs=0",
        "data.limit_test=10", "data.download=false", *device,
    ]  # fmt: skip


def merge_settings(settings: Sequence[str], by: Sequence[str]) -> list[str]:
    """The `key=value` of both, each key once; those of `by` win."""
    return list({setting.partition("=")[0]: setting for setting in (*settings, *by)}.values())


def run_and_read(
    command: Sequence[str], readings: Path, last: int, env: Mapping[str, str] | None = None
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Run a command that writes its readings to a file, until that of step `last`.

    A command that fails after its last reading counts: Gloo may abort a process while Python shuts down.

    Raises:
        FailedError: it failed before.
    """
    try:
        outcome = run(command, env)
    except FailedError as error:
        lines = read_lines(readings) if readings.exists() else []
        if error.outcome is None or not any(line["step"] == last for line in lines):
            raise
        return error.outcome, lines
    return outcome, read_lines(readings)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; raises FailedError if it does not exist."""
    if not path.exists():
        raise FailedError(f"{path.name} was not written")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
