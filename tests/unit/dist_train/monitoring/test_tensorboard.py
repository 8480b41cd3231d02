"""Event files are what TensorBoard itself would have written."""

import io
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from dist_train.monitoring.tensorboard import encode_scalars, encode_version

TAGS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
TIMES = st.floats(1, 2**40)


def written(event: Event) -> bytes:
    file = io.BytesIO()
    RecordWriter(file).write(event.SerializeToString())
    return file.getvalue()


@given(TIMES)
def test_the_first_record_is_tensorboard_s(wall_time: float) -> None:
    assert encode_version(wall_time) == written(Event(wall_time=wall_time, file_version="brain.Event:2"))


@given(TIMES, st.integers(1, 2**62), st.dictionaries(TAGS, st.floats(width=32, allow_nan=False), max_size=4))
def test_a_record_of_numbers_is_tensorboard_s(wall_time: float, step: int, scalars: dict[str, float]) -> None:
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    assert encode_scalars(wall_time, step, scalars) == written(
        Event(wall_time=wall_time, step=step, summary=Summary(value=values))
    )


@pytest.mark.parametrize(("value", "read"), [(1e300, math.inf), (-1e300, -math.inf), (math.nan, math.nan)])
def test_numbers_that_no_float_holds_are_written_all_the_same(tmp_path: Path, value: float, read: float) -> None:
    path = tmp_path / "events.out.tfevents.0"
    path.write_bytes(encode_version(1.0) + encode_scalars(2.0, 0, {"train/lr": value}))
    _, event = EventFileLoader(str(path)).Load()
    assert (event.step, event.wall_time) == (0, 2.0)
    assert event.summary.value[0].tensor.float_val == pytest.approx([read], nan_ok=True)
