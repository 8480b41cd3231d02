"""Encode TensorBoard's event files without TensorBoard, whose import takes a third of a second.

A file is a sequence of records (TensorFlow, `core/lib/io/record_writer.h`): length of the content (uint64), checksum of
the length, content, checksum of the content. Numbers are little-endian; a checksum is a masked CRC-32C. The content is
one `Event` of `event.proto`, as a Protocol Buffer.
"""

import math
import struct
from collections.abc import Mapping

_POLYNOMIAL = 0x82F63B78  # Castagnoli, lowest bit first


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
