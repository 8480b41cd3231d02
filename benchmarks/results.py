"""The results of a session: what is kept of it as JSON, and on what machine it was."""

import ast
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.compare.figures import figures
from benchmarks.processes import ROOT, run
from benchmarks.rounds import Case, Missing, Record, Spread
from dist_train.errors import UserError

DIRECTORY = ROOT / "benchmarks" / "results"
KIND = "bench"
"""What tells these files from those of other measurements in the same directory."""
_PACKAGES = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Results:
    """All that a session has measured."""

    about: dict[str, Any]
    """Date, machine, versions, and how it was measured."""
    records: list[Record]
    missing: list[Missing]

    def to_dict(self) -> dict[str, Any]:
        """With the figures, so that a reader needs no program of ours."""
        return {
            "kind": KIND,
            "about": self.about,
            "figures": figures_of(self.records),
            "records": [record.to_dict() for record in self.records],
            "missing": [{**each.case._asdict(), "reason": each.reason} for each in self.missing],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Results":
        missing = [
            Missing(Case(**{name: each[name] for name in Case._fields}), each["reason"]) for each in content["missing"]
        ]
        return cls(content["about"], [Record.from_dict(each) for each in content["records"]], missing)


def figures_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Each figure to reach with its target, what was measured (None: nothing), and whether it is reached.

    `disturbed`: there was no round in which nothing else ran.
    """
    found = []
    quiet = [record for record in records if not record.is_disturbed]
    for figure in figures():
        spread: Spread | None = figure.measure(records)
        found.append(
            {
                "figure": figure.text,
                "target": figure.target,
                "is_least": figure.is_least,
                "measured": spread._asdict() if spread else None,
                "reached": figure.is_reached_by(spread.median) if spread else None,
                "disturbed": spread is not None and figure.measure(quiet) is None,
            }
        )
    return found


def read(path: Path) -> Results:
    """The results in a file."""
    return Results.from_dict(json.loads(path.read_text(encoding="utf-8")))


def newest(directory: Path = DIRECTORY) -> Path | None:
    """The file of the newest full session on a CPU, which the README shows; None where there is none yet."""
    contents = {path: json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("*.json")}
    ours = {path: each for path, each in contents.items() if isinstance(each, dict) and each.get("kind") == KIND}
    abouts = {path: content["about"] for path, content in ours.items()}
    dates = {path: about["date"] for path, about in abouts.items() if not kinds(about)}
    return max(dates, key=lambda path: dates[path], default=None)


def kinds(about: dict[str, Any]) -> list[str]:
    """What makes a session another than the full one on a CPU; nothing where it is that one."""
    found = {
        "quick": about["quick"],
        "cuda": about["device"] != "cpu",
        "part": about.get("part", False),  # the first sessions had no such key, and were full ones
    }
    return [kind for kind, is_so in found.items() if is_so]


def check_out(directory: Path) -> None:
    """See to it that results can be written, before the hours in which they are measured.

    Raises:
        UserError: they can't.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(f"--out {directory}: cannot be written ({error}); give another directory") from error


def write(results: Results, text: str, directory: Path) -> Path:
    """Write a session and its report to files that are not there yet; returns that of the session."""
    name = "-".join([machine_name(results.about), results.about["date"][:10], *kinds(results.about)])
    return write_both(directory, name, results.to_dict(), text)


def write_both(directory: Path, name: str, content: dict[str, Any], text: str) -> Path:
    """Write numbers and their report to files of this name, or with a number, that are not there yet.

    Returns:
        The file of the numbers.
    """
    paths = (directory / f"{name}{f'-{number}' if number > 1 else ''}.json" for number in count(1))
    path = next(path for path in paths if not (path.exists() or path.with_suffix(".md").exists()))
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return path


def about_machine() -> dict[str, Any]:
    """Processor, cores, memory, system and versions; nothing of the environment, which may hold secrets."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    processor = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    flags = set(cpuinfo.split())
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": cpuinfo.count("\nprocessor") + cpuinfo.startswith("processor"),
        "bf16": sorted(flags & {"avx512_bf16", "amx_bf16"}),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def gpus() -> list[str]:
    """The names of this machine's GPUs, as torch has them."""
    ask = "import torch; print([torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())])"
    return list(ast.literal_eval(run([sys.executable, "-c", ask]).output.splitlines()[-1]))


def _commit() -> str | None:
    """Of the checkout that was measured, with a + where files differ from it; None where it is none."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--match="],  # noqa: S607
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return said.stdout.strip() or None


def machine_name(about: dict[str, Any]) -> str:
    """A name for files: `amd-epyc-2-cores`."""
    name = re.sub(r"[^a-z0-9]+", "-", about["processor"].lower().replace("(r)", "").replace("(tm)", "")).strip("-")
    return f"{name}-{about['cores']}-cores"
