"""Encode the records of TensorBoard's event files, and find records in them.

TensorBoard itself is not used: its import takes a third of a second.

A file is a sequence of records (TensorFlow, `core/lib/io/record_writer.h`): length of the content (uint64), checksum of
the length, content, checksum of the content. Numbers are little-endian; a checksum is a masked CRC-32C. The content is
one `Event` of `event.proto`, as a Protocol Buffer.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dist_train.system.read_file import open_regular

_POLYNOMIAL = 0x82F63B78  # Castagnoli, lowest bit first
_LONGEST = 2**30  # bytes of a record


class Picture(NamedTuple):
    """A picture in colour."""

    width: int
    height: int
    png: bytes


class Node(NamedTuple):
    """A node of a network's graph; a `/` in its name separates modules from what is inside."""

    name: str
    operation: str
    inputs: tuple[str, ...] = ()
    """Names of other nodes."""
    shape: tuple[int, ...] | None = None
    """Shape of its first output."""


def encode_version(wall_time: float) -> bytes:
    """Return the first record of a file. `wall_time`: seconds since 1970."""
    return _record(_event(wall_time) + _bytes(3, b"brain.Event:2"))


def encode_start(wall_time: float, step: int) -> bytes:
    """Return the record by which TensorBoard drops the values of earlier files from `step` on."""
    return _record(_event(wall_time) + b"\x10" + _varint(step) + _bytes(7, b"\x08\x01"))


def encode_scalars(wall_time: float, step: int, scalars: Mapping[str, float]) -> bytes:
    """Return the record of the values of one step by tag. `wall_time`: seconds since 1970; `step`: from 0."""
    summary = b"".join(_bytes(1, _scalar(tag, value)) for tag, value in scalars.items())
    return _record(_event(wall_time) + b"\x10" + _varint(step) + _bytes(5, summary))


def encode_picture(wall_time: float, step: int, tag: str, picture: Picture) -> bytes:
    """Return the record of a picture after a step."""
    image = b"\x08" + _varint(picture.height) + b"\x10" + _varint(picture.width) + b"\x18\x03" + _bytes(4, picture.png)
    value = _bytes(1, tag.encode()) + _bytes(4, image)
    return _record(_event(wall_time) + b"\x10" + _varint(step) + _bytes(5, _bytes(1, value)))


def encode_settings(wall_time: float, name: str, settings: Mapping[str, float | str]) -> bytes:
    """Return the record with the settings of a run for the hparams plugin, which shows them beside its scalars."""
    session = b"".join(
        _bytes(1, _bytes(1, key.encode()) + _bytes(2, _setting(value))) for key, value in settings.items()
    )
    session += _bytes(4, name.encode()) + b"\x29" + struct.pack("<d", wall_time)
    metadata = _bytes(1, _bytes(1, b"hparams") + _bytes(2, _bytes(3, session)))
    no_tensor = b"\x08\x01" + _bytes(2, _bytes(2, b""))  # floats [0]
    value = _bytes(1, b"_hparams_/session_start_info") + _bytes(9, metadata) + _bytes(8, no_tensor)
    return _record(_event(wall_time) + _bytes(5, _bytes(1, value)))


def encode_graph(wall_time: float, nodes: Iterable[Node]) -> bytes:
    """Return the record of a network's graph."""
    graph = b"".join(_bytes(1, _encode_node(node)) for node in nodes)
    return _record(_event(wall_time) + _bytes(4, graph + _bytes(4, b"\x08\x16")))  # of TensorFlow's version 22


def find_pictures(path: Path, step: int) -> Iterator[bytes]:
    """Yield the records of the pictures after a step, up to one that is damaged; raises OSError."""
    wanted = b"\x10" + _varint(step) + b"\x2a"
    for content in _read_records(path):
        if content[9:].startswith(wanted) and b"\x89PNG" in content:
            yield _record(content)


def _read_records(path: Path) -> Iterator[bytes]:
    """Yield the content of each record; a kill may have cut the last one short."""
    with open_regular(path) as file:
        while len(header := file.read(12)) == 12 and _checksum(header[:8]) == header[8:]:
            (length,) = struct.unpack("<Q", header[:8])
            content = file.read(length) if length < _LONGEST else b""
            if len(content) < length or len(file.read(4)) < 4:
                return
            yield content


def _encode_node(node: Node) -> bytes:
    content = _bytes(1, node.name.encode()) + _bytes(2, node.operation.encode())
    content += b"".join(_bytes(3, name.encode()) for name in node.inputs)
    if node.shape is None:
        return content
    shape = b"".join(_bytes(2, b"\x08" + _varint(size)) for size in node.shape)
    return content + _bytes(5, _bytes(1, b"_output_shapes") + _bytes(2, _bytes(1, _bytes(7, shape))))


def _setting(value: float | str) -> bytes:
    """Encode a `google.protobuf.Value`."""
    if isinstance(value, bool):
        return b"\x20" + _varint(int(value))
    return _bytes(3, value.encode()) if isinstance(value, str) else b"\x11" + struct.pack("<d", value)


def _event(wall_time: float) -> bytes:
    return b"\x09" + struct.pack("<d", wall_time)


def _scalar(tag: str, value: float) -> bytes:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", math.inf if value > 0 else -math.inf)
    return _bytes(1, tag.encode()) + b"\x15" + packed


def _bytes(field: int, content: bytes) -> bytes:
    """A length-delimited field: bytes, text or a message."""
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Encode seven bits per byte, lowest first; the upper bit of a byte says that more follow."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_remainder, range(256)))
