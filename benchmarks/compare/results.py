"""The results of a session of the bench: their JSON files, and which is the newest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.targets import all_targets
from benchmarks.machine import machine_name
from benchmarks.results import DIRECTORY, write_both
from benchmarks.rounds import Case, Missing, Record, Spread

KIND = "bench"
"""Marks these files among those of other measurements in the same directory."""


@dataclass(frozen=True)
class Results:
    """All readings of a session."""

    about: dict[str, Any]
    """Date, machine, versions, and how it was measured."""
    records: list[Record]
    missing: list[Missing]

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file; with the figures, so that it can be read without this program."""
        return {
            "kind": KIND,
            "about": self.about,
            "targets": check_targets(self.records),
            "records": [record.to_dict() for record in self.records],
            "missing": [{**each.case._asdict(), "reason": each.reason} for each in self.missing],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Results":
        missing = [
            Missing(Case(**{name: each[name] for name in Case._fields}), each["reason"]) for each in content["missing"]
        ]
        return cls(content["about"], [Record.from_dict(each) for each in content["records"]], missing)


def check_targets(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Each target with its measurement (None: nothing), if it is reached, and if all its rounds were disturbed."""
    found = []
    quiet = [record for record in records if not record.is_disturbed]
    for target in all_targets():
        spread: Spread | None = target.measure(records)
        found.append(
            {
                "text": target.text,
                "value": target.value,
                "is_minimum": target.is_minimum,
                "measured": spread._asdict() if spread else None,
                "reached": target.is_reached_by(spread.median) if spread else None,
                "disturbed": spread is not None and target.measure(quiet) is None,
            }
        )
    return found


def read(path: Path) -> Results:
    """The results in a file."""
    return Results.from_dict(json.loads(path.read_text(encoding="utf-8")))


def newest(directory: Path = DIRECTORY) -> Path | None:
    """The file of the newest full session on a CPU, which the README is generated from; None if there is none."""
    contents = {path: json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("*.json")}
    ours = {path: each for path, each in contents.items() if isinstance(each, dict) and each.get("kind") == KIND}
    abouts = {path: content["about"] for path, content in ours.items()}
    dates = {path: about["date"] for path, about in abouts.items() if not kinds(about)}
    return max(dates, key=lambda path: dates[path], default=None)


def kinds(about: dict[str, Any]) -> list[str]:
    """How a session differs from a full one on a CPU; empty for a full one."""
    found = {
        "quick": about["quick"],
        "cuda": about["device"] != "cpu",
        "part": about.get("part", False),  # the first sessions had no such key, and were full ones
    }
    return [kind for kind, is_so in found.items() if is_so]


def write(results: Results, text: str, directory: Path) -> Path:
    """Write a session and its report to new files; returns the JSON file."""
    name = "-".join([machine_name(results.about), results.about["date"][:10], *kinds(results.about)])
    return write_both(directory, name, results.to_dict(), text)
