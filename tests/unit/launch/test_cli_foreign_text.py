"""No command prints a control character or a forged line, whatever text is in the files of a run."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from launch import cli
from tests.unit.launch.foreign_files import leave_everything, leave_whole_sweep, list_leaves, replace_leaf
from tests.unit.launch.sweeps.sweep_files import CONFIG

pytestmark = pytest.mark.usefixtures("runs_dir")
POISON = "\x1b[2J\x1b]0;t\x07\r\x08\u202eevil\u2028\x85\x9b31m\x7f\nFORGED done at step 9\n"
"""Escape sequences, a carriage return, a bidirectional mark, and lines that pretend to be ours."""
UNCHANGED = ("state", "updated", "time", "kind", "cause", "samples", "loss", "grad_norm", "weights")
"""Texts that are read only if they are of a certain form."""
COMMANDS = (
    *("status", "status {run}", "status {run} --json", "status {sweep}", "logs {run}", "logs {run} -f --lines 3"),
    *("logs {run} --rank 0", "logs {run} --rank 1", "cancel {run}", "cancel {sweep}", "postmortem {run}"),
    *("ckpt ls {run}", "ckpt prune {run}", "diff {run} {other}", "diff {other} {run}"),
    *("status {unknown}", "logs {unknown}", "cancel {unknown}", "postmortem {unknown}", "ckpt ls {unknown}"),
    *(
        "diff {unknown} {run}",
        "status {poison}",
        "{poison}",
        "train --print-config --{poison}",
        "submit {yaml} --time {poison}",
    ),
    *("train --print-config {poison}", "train --print-config {yaml} {poison}", "train {yaml} --nproc {poison}"),
    *("train --print-config {yaml} {poison}=1", "train --print-config {yaml} optim.lr={poison}"),
    *("sweep {yaml} optim.lr={poison},1", "sweep {yaml} optim.lr=1,2 run.dir={run} --dry-run"),
    *("sweep {yaml} optim.lr=0.1,0.2 run.dir={swept} --dry-run", "drill {yaml} --faults {poison}"),
)


def poison_files(directory: Path) -> None:
    """Add the poison to each text in the JSON and YAML files of a directory, and to its logs."""
    for path in sorted(directory.rglob("*")):
        if path.suffix in (".json", ".jsonl", ".lock") and path.read_text().strip():
            lines = [path.read_text()] if path.suffix != ".jsonl" else path.read_text().splitlines()
            path.write_text("\n".join(json.dumps(poison_texts(json.loads(line))) for line in lines) + "\n")
        elif path.suffix == ".yaml":
            path.write_text(f"data: {{global_batch: 64, name: {json.dumps(POISON)}}}\n")
        elif path.suffix in (".log", ".out", ".txt"):
            path.write_text(POISON * 3)


def poison_texts(found: Any) -> Any:
    for keys in list(list_leaves(found)):
        value: Any = found
        for key in keys:
            value = value[key]
        if isinstance(value, str) and keys[-1] not in UNCHANGED:
            found = replace_leaf(found, keys, value + POISON)
    return found


def harmful(output: str) -> list[str]:
    """Characters that a terminal would act on, and lines that begin as the forged one."""
    characters = [
        each for each in output if each not in "\n\t" and unicodedata.category(each) in {"Cc", "Cf", "Zl", "Zp"}
    ]
    return [*characters, *(line for line in output.splitlines() if line.startswith("FORGED"))]


@pytest.mark.parametrize("state", ["failed", "preempted", "done"])
def test_no_text_of_others_acts_on_the_terminal(capfd: pytest.CaptureFixture[str], workdir: Path, state: str) -> None:
    name = POISON.replace("/", "")
    (workdir / "x.yaml").write_text(CONFIG)
    paths = {
        "run": leave_everything(f"runs/{name}", state),
        "other": leave_everything("runs/other", state),
        "sweep": leave_whole_sweep(f"runs/{name}.sweep"),
        "swept": Path(f"runs/{name}"),
        "unknown": Path(f"runs/{name}.none"),
        "yaml": workdir / "x.yaml",
        "poison": POISON,
    }
    for directory in Path("runs").iterdir():
        poison_files(directory)
    for command in COMMANDS:
        for run in (paths["run"], paths["other"]):
            arguments = [word.format(**{**paths, "run": run}) for word in command.split()]
            code = cli.main(arguments)
            captured = capfd.readouterr()
            output = captured.out + captured.err
            assert code in (0, 1, 2), command
            assert "Traceback" not in output, (command, output)
            if not command.startswith("logs") or code:  # a log has lines of its own
                assert harmful(output) == [], (command, output)
            assert [each for each in harmful(output) if not each.startswith("FORGED")] == [], (command, output)
