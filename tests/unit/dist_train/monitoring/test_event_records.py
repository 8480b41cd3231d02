"""Event files are what TensorBoard itself would have written."""

import io
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from dist_train.monitoring.event_records import (
    Node,
    Picture,
    encode_graph,
    encode_picture,
    encode_scalars,
    encode_settings,
    encode_version,
)

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


@given(TIMES, st.integers(1, 2**62), TAGS, st.binary(min_size=1, max_size=300))
def test_a_record_of_a_picture_is_tensorboard_s(wall_time: float, step: int, tag: str, png: bytes) -> None:
    image = Summary.Image(height=300, width=20, colorspace=3, encoded_image_string=png)
    assert encode_picture(wall_time, step, tag, Picture(20, 300, png)) == written(
        Event(wall_time=wall_time, step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))
    )


@given(TIMES, TAGS, st.dictionaries(TAGS, st.booleans() | st.floats(allow_nan=False) | st.integers(-99, 99) | TAGS))
def test_the_record_of_settings_is_read_by_the_hparams_plugin(
    wall_time: float, name: str, settings: dict[str, bool | float | str]
) -> None:
    (value,) = read(encode_settings(wall_time, name, settings)).summary.value
    assert value.tag == metadata.SESSION_START_INFO_TAG
    assert (value.metadata.plugin_data.plugin_name, value.tensor) == ("hparams", metadata.NULL_TENSOR)
    found = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
    assert (found.group_name, found.start_time_secs) == (name, wall_time)
    assert {key: getattr(each, each.WhichOneof("kind")) for key, each in found.hparams.items()} == settings


@given(TIMES, TAGS, st.lists(TAGS, max_size=3), st.none() | st.lists(st.integers(0, 2**40), max_size=4))
def test_the_record_of_a_graph_is_read_by_tensorboard(
    wall_time: float, name: str, inputs: list[str], shape: list[int] | None
) -> None:
    node = Node(name, "conv2d", tuple(inputs), None if shape is None else tuple(shape))
    (found,) = GraphDef.FromString(read(encode_graph(wall_time, [node])).graph_def).node
    assert (found.name, found.op, list(found.input)) == (name, "conv2d", inputs)
    shapes = [[dim.size for dim in each.dim] for each in found.attr["_output_shapes"].list.shape]
    assert shapes == ([] if shape is None else [shape])


def read(record: bytes) -> Event:
    (length,) = struct.unpack("<Q", record[:8])
    event = Event.FromString(record[12 : 12 + length])
    assert written(event)[:12] == record[:12]
    return event
