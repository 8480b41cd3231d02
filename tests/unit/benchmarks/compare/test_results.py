"""The files of a session."""

import json
from pathlib import Path

import pytest

from benchmarks.compare.results import Results, newest, read, write
from tests.unit.benchmarks.records import ABOUT, make_results, write_results


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = make_results()
    (tmp_path / "some.json").write_text(json.dumps(results.to_dict()))
    assert read(tmp_path / "some.json") == results


@pytest.mark.parametrize(
    ("about", "suffix"),
    [
        ({}, ""),
        ({"part": False}, ""),
        ({"quick": True}, "-quick"),
        ({"device": "NVIDIA A100"}, "-cuda"),
        ({"quick": True, "device": "NVIDIA A100", "part": True}, "-quick-cuda-part"),
    ],
)
def test_file_names_have_the_kind_of_session(about: dict[str, object], suffix: str, tmp_path: Path) -> None:
    path = write(Results(ABOUT | about, [], []), "text", tmp_path)
    assert path == tmp_path / f"some-cpu-7-2-cores-2026-01-02{suffix}.json"
    assert path.with_suffix(".md").read_text() == "text"


def test_no_session_overwrites_another(tmp_path: Path) -> None:
    results = [Results(ABOUT | {"rounds": rounds}, [], []) for rounds in range(3)]
    paths = [write(each, "text", tmp_path) for each in results]
    ends = ["-02.json", "-02-2.json", "-02-3.json"]
    assert [path.name.removeprefix("some-cpu-7-2-cores-2026-01") for path in paths] == ends
    assert [read(path) for path in paths] == results


def test_the_newest_is_a_full_session(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    older = write_results(tmp_path, "b", date="2026-01-01T00:00:00+00:00")
    write_results(tmp_path, "quick", quick=True, date="2026-01-03T00:00:00+00:00")
    write_results(tmp_path, "cuda", device="NVIDIA A100", date="2026-01-03T00:00:00+00:00")
    write_results(tmp_path, "part", part=True, date="2026-01-03T00:00:00+00:00")
    (tmp_path / "gpu.json").write_text('{"kind": "gpu", "records": []}')
    (tmp_path / "growth.json").write_text("[]")
    assert newest(tmp_path) == older
    newer = write_results(tmp_path, "a", part=False)
    assert newest(tmp_path) == newer
