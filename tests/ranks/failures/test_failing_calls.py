"""A kill or an error of the disk before any call that changes a run's directory: the same command finishes the run."""

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dist_train.checkpoint.store import Store
from dist_train.monitoring import ledger, ledger_comparison
from dist_train.monitoring.metrics import read_lines
from tests.failing_calls import Fault, list_calls, start_server
from tests.forkserver import ForkServer

STEPS = 4
SETTINGS = f"""
data: {{name: digits, global_batch: 32, limit_train: 96, limit_test: 32, cache: CACHE}}
model: {{name: mnist_cnn}}
optim: {{name: sgd, lr: 0.1, momentum: 0.9}}
train: {{max_steps: {STEPS}}}
checkpoint: {{every_steps: 1, keep_last: 1, asynchronous: false}}
log: {{every_steps: 1, weights_every_steps: 1}}
distributed: {{threads: 1}}
"""
KILLED = -signal.SIGKILL
READ_ERRNOS = (errno.EIO, errno.EMFILE, errno.ESTALE, errno.EACCES)
ERRNOS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.EINTR, errno.ESTALE)
# How the directory comes to be, before the start that fails.
SITUATIONS = ("empty", "stopped", "never")


@dataclass
class Torture:
    """Starts runs whose calls fail, and holds what they become against an undisturbed one."""

    server: ForkServer
    environ: dict[str, str]
    folder: Path
    config: Path
    counter: int = 0
    references: dict[str, Path] = field(default_factory=dict)

    def reference(self, situation: str) -> Path:
        """A run that nothing disturbs."""
        if situation not in self.references:
            run, arguments = self.prepare(situation)
            code, output = self.start(arguments, {})
            assert code == 0, output
            self.references[situation] = run
        return self.references[situation]

    def prepare(self, situation: str) -> tuple[Path, list[str]]:
        """Make the directory of a run; return it and the arguments of its command."""
        self.counter += 1
        run = self.folder / f"run-{self.counter:06d}"
        arguments = ["-m", "dist_train", str(self.config), f"run.dir={run}"]
        if situation != "empty":
            shutil.copytree(self.folder / "half", run, symlinks=True)
        return run, [*arguments, "run.resume=never"] if situation == "never" else arguments

    def start(self, arguments: list[str], variables: dict[str, str]) -> tuple[int, str]:
        command = self.server.start(arguments, [{**self.environ, **variables}])
        output, errors = command.communicate(timeout=60)
        return command.returncode, output + errors

    def check(self, situation: str, fault: Fault) -> str | None:
        """Start with a fault, then without; describe what is wrong then, None if nothing is."""
        run, arguments = self.prepare(situation)
        code, output = self.start(arguments, fault.variables(run))
        wrong = self._judge_ending(run, situation, code, output)
        if code and not wrong:
            code, output = self.start(arguments, {})
            wrong = f"the same command ends with {code}: {output}" if code else None
            wrong = wrong or self.compare(run, situation)
        shutil.rmtree(run)
        for aside in self.folder.glob(f"{run.name}.old-*"):
            shutil.rmtree(aside)
        return wrong

    def _judge_ending(self, run: Path, situation: str, code: int, output: str) -> str | None:
        if code not in (0, 1, 2, KILLED):
            return f"exit code {code}: {output}"
        if "Traceback" in output:
            return f"a traceback: {output}"
        if code == 0 and (missing := self.compare(run, situation, is_tidy=False)):
            return f"says it is done, but {missing}: {output}"
        return None

    def compare(self, run: Path, situation: str, is_tidy: bool = True) -> str | None:
        """What of a run that is done differs from an undisturbed one; `is_tidy`: nothing old is left."""
        whole = self.reference(situation)
        difference = ledger_comparison.compare(
            ledger.read(run / "ledger.jsonl"), ledger.read(whole / "ledger.jsonl")
        ).divergence
        found = {
            "status": json.loads((run / "status.json").read_text())["state"],
            "metrics": [(line["kind"], line["step"]) for line in read_lines(run / "metrics.jsonl")],
            "checkpoints": Store(run / "checkpoints").steps(),
            "damaged": [each.fault for each in Store(run / "checkpoints").entries(verify=True) if each.fault],
            "links": {link: (run / "checkpoints" / link).resolve().name for link in ("latest", "best")},
            "leftovers": [path.name for path in run.rglob(".*")],
            "quarantine": (run / "checkpoints" / "quarantine").exists(),
            "ledger": difference and difference.description,
        }
        expected = {**found, "status": "done", "damaged": [], "leftovers": [], "quarantine": False, "ledger": None}
        expected["metrics"] = [(line["kind"], line["step"]) for line in read_lines(whole / "metrics.jsonl")]
        expected["links"] = {link: (whole / "checkpoints" / link).resolve().name for link in ("latest", "best")}
        expected["checkpoints"] = Store(whole / "checkpoints").steps()
        if not is_tidy:  # the next start removes them
            found["checkpoints"] = found["checkpoints"][-1:]
            expected["leftovers"] = found["leftovers"]
        wrong = [f"{name} {found[name]}, expected {expected[name]}" for name in found if found[name] != expected[name]]
        return "; ".join(wrong) or None


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory, clean_environment: dict[str, str]) -> Iterator[Torture]:
    folder = tmp_path_factory.mktemp("failing")
    config = folder / "run.yaml"
    config.write_text(SETTINGS.replace("CACHE", str(folder / "cache")))
    environ = {**clean_environment, "OMP_NUM_THREADS": "1"}
    with start_server(folder, environ) as server:
        torture = Torture(server, environ, folder, config)
        arguments = ["-m", "dist_train", str(config), f"run.dir={folder / 'half'}", "train.max_steps=2"]
        code, output = torture.start(arguments, {})
        assert code == 0, output
        yield torture


def calls_of(torture: Torture, situation: str) -> list[tuple[str, str]]:
    """Kind and file of each call that a whole start changes its directory by; numbers of processes are left out."""
    run, arguments = torture.prepare(situation)
    log = torture.folder / f"{run.name}.calls"
    calls = list_calls(torture.server, arguments, torture.environ, run, log)
    return [(kind, re.sub(r"\d{3,}", "N", str(path.relative_to(run.parent)))) for kind, path in calls]


def distinct_calls(torture: Torture, situation: str) -> dict[tuple[str, str], int]:
    """Where each call on each file comes first."""
    first: dict[tuple[str, str], int] = {}
    for at, call in enumerate(calls_of(torture, situation), 1):
        first.setdefault(call, at)
    return first


@pytest.mark.slow
@pytest.mark.parametrize("offset", range(2))
def test_some_calls_fail(torture: Torture, offset: int) -> None:
    """A part of what the long test does: kills and errors in turn, before the first call on each file."""
    wrong = {}
    for number, (call, at) in enumerate(distinct_calls(torture, "empty").items()):
        if number % 4 == 2 * offset:
            fault = Fault(at, KILLED if offset == 0 else ERRNOS[number // 4 % len(ERRNOS)])
            if found := torture.check("empty", fault):
                wrong[call] = found
    assert wrong == {}


@pytest.mark.slow
def test_a_disk_that_cannot_be_read_now_is_named_and_moves_nothing(torture: Torture) -> None:
    """Every kind of read fails, for a while and for good; afterwards the same command finishes the run."""
    for number, (call, what) in enumerate(
        [
            *(("open", "manifest.json"), ("open", "model.pt"), ("open", "training.pt")),
            *(("read", "training.pt"), ("stat", "model.pt"), ("list", "checkpoints")),
        ]
    ):
        for count in (1, 10**6):
            run, arguments = torture.prepare("stopped")
            before = sorted((run / "checkpoints").rglob("*"))
            fault = Fault(1, READ_ERRNOS[number % len(READ_ERRNOS)], call, count)
            code, output = torture.start(arguments, {**fault.variables(run), "FAILING_PATH": what})
            if count == 1:
                assert code == 0, output
                continue
            assert code == 2, output
            assert os.strerror(fault.with_) in output
            assert what in output
            assert "Traceback" not in output
            assert sorted((run / "checkpoints").rglob("*")) == before
            code, output = torture.start(arguments, {})
            assert code == 0, output


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_gone_is_not_started_over(torture: Torture) -> None:
    run, arguments = torture.prepare("stopped")
    shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, output = torture.start(arguments, {})
    assert code == 2, output
    for said in ("status.json says done at step 2", "metrics.jsonl ends at step 2", "ledger.jsonl ends at step 2"):
        assert said in output
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    code, output = torture.start([*arguments, "run.resume=never"], {})
    assert code == 0, output
    kept = run.with_name(f"{run.name}.old-1")
    assert {path: (kept / path.relative_to(run)).read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_run_without_its_status_is_still_a_run(torture: Torture) -> None:
    run, arguments = torture.prepare("stopped")
    (run / "status.json").unlink()
    (run / ".status.json.4711").write_text("a killed start has left this")
    code, output = torture.start(arguments, {})
    assert (code, "at step 2 of 4" in output) == (0, True), output
    assert torture.compare(run, "stopped") is None


@pytest.mark.slow
def test_done_is_not_said_while_a_file_lacks_something(torture: Torture) -> None:
    """The file of metrics, the ledger or the status takes nothing more: the last screen and the exit code say so."""
    for kind, name in (("write", "metrics.jsonl"), ("write", "ledger.jsonl"), ("rename", "status.json")):
        run, arguments = torture.prepare("empty")
        fault = Fault(2, errno.ENOSPC, kind, 10**6)
        code, output = torture.start(arguments, {**fault.variables(run), "FAILING_PATH": f"{run.name}/{name}"})
        assert code == 1, output
        assert "these files are not complete" in output
        assert f"{run / name}: " in output.partition("these files are not complete")[2]
        assert f"{torture.config.stem}: done" not in output
        code, output = torture.start(arguments, {})
        assert code == 0, output


@pytest.mark.long
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("number", [KILLED, *ERRNOS])
def test_every_call_may_fail(torture: Torture, situation: str, number: int) -> None:
    calls = calls_of(torture, situation)
    wrong = {}
    for at, call in enumerate(calls, 1):
        if found := torture.check(situation, Fault(at, number)):
            wrong[at, *call] = found
    print(f"{len(calls)} calls of a start in the situation {situation}, fault {number}: {len(wrong)} ended wrong")
    assert wrong == {}
