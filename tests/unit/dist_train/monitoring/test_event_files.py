"""Event files of several starts show each step once: curves, pictures, and what the run is."""

import struct
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_train.monitoring.event_files import EventFiles
from dist_train.monitoring.event_records import Node, Picture
from tests.unit.dist_train.monitoring.test_metrics import line, scalars


@pytest.mark.parametrize("has_lost_curves", [False, True])
def test_curves_of_several_starts_do_not_overlap(tmp_path: Path, has_lost_curves: bool) -> None:
    first = EventFiles(tmp_path, 0, [], [])
    for step in (1, 2, 3):
        first.write(line(step))
    first.write(line(3, "eval"))
    first.close()
    for _ in range(2):  # within a second, too
        if has_lost_curves:
            for path in tmp_path.glob("events*"):
                path.unlink()
        again = EventFiles(tmp_path, 2, [line(2), line(2, "eval")], [line(1), line(2), line(2, "eval")])
        again.write({**line(3), "loss": 0.25})
        again.close()
    found = scalars(tmp_path)
    assert set(found) == {"train/loss", "train/lr", "train/samples_per_second", "test/loss", "test/accuracy"}
    assert found["train/loss"] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert found["test/accuracy"] == [(2, 0.5)]


def test_curves_of_a_start_at_zero_replace_those_before(tmp_path: Path) -> None:
    (tmp_path / ".events.out.tfevents.1.host.2.0").write_bytes(b"a killed start left this")
    for loss in (0.5, 0.25):
        curves = EventFiles(tmp_path, 0, [], [])
        curves.write({**line(1), "loss": loss})
        curves.close()
    assert scalars(tmp_path)["train/loss"] == [(1, 0.25)]
    assert len(list(tmp_path.iterdir())) == 1


def pictures(directory: Path) -> list[tuple[int, bytes]]:
    events = EventAccumulator(str(directory))
    events.Reload()
    return [(each.step, each.encoded_image_string) for each in events.Images("test/samples")]


@pytest.mark.parametrize("is_evaluated", [True, False])
def test_pictures_of_several_starts_do_not_overlap(tmp_path: Path, is_evaluated: bool) -> None:
    """That of the step of a resume stays where its evaluation does."""
    first = EventFiles(tmp_path, 0, [], [])
    for step in (1, 2, 3):
        first.write_picture(step, "test/samples", Picture(2, 2, b"\x89PNG%d" % step))
        first.write(line(step, "eval"))
    first.close()
    for _ in range(2):
        again = EventFiles(tmp_path, 2, [line(2), *([line(2, "eval")] if is_evaluated else [])], [])
        again.write_picture(3, "test/samples", Picture(2, 2, b"\x89PNGnew"))
        again.close()
    kept = [(2, b"\x89PNG2")] if is_evaluated else []
    assert pictures(tmp_path) == [(1, b"\x89PNG1"), *kept, (3, b"\x89PNGnew")]


def test_pictures_before_a_damaged_end_are_found(tmp_path: Path) -> None:
    first = EventFiles(tmp_path, 0, [], [])
    first.write_picture(1, "test/samples", Picture(2, 2, b"\x89PNG1"))
    first.close()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-3], whole + b"\xff" * 40, whole + whole[24:60]):
        path.write_bytes(damaged)
        for other in tmp_path.glob("*"):
            if other != path:
                other.unlink()
        EventFiles(tmp_path, 1, [line(1, "eval")], []).close()
        newest = max(tmp_path.iterdir())
        assert newest != path
        assert (b"\x89PNG1" in newest.read_bytes()) == (damaged != whole[:-3])


def test_what_the_run_is_is_that_of_the_newest_start(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        events = EventFiles(tmp_path, 5, [], [])
        settings = {"optim.lr": rate, "model.name": "lenet", "data.augment.flip": True, "optim.plateau": None}
        events.write_about("run", settings, [Node("input", "Placeholder"), Node("relu", "relu", ("input",), (1, 8))])
        events.close()
    assert len(list(tmp_path.glob("events.out.tfevents.0000000000.*"))) == 1
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [node.name for node in read.Graph().node] == ["input", "relu"]
    content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"optim.lr" in content
    assert b"optim.plateau" not in content
    assert struct.pack("<d", 0.2) in content
