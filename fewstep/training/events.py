"""TensorBoard's event format, as bytes (floor 3): scalars only. Used by training/copies.py.

A file is a sequence of records (TFRecord: length, its checksum, content, its checksum), a record a protocol buffer `Event`. The
format is small and has not changed in years; libraries that write it bring threads and queues of their own, and none can go
back to where a checkpoint was. Here the same numbers are the same bytes.

Sources: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto, framework/summary.proto; CRC-32C: RFC 3720.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

VERSION = b"brain.Event:2"
"""what a file begins with"""
POLYNOMIAL = 0x82F63B78
"""of CRC-32C (Castagnoli), its bits reversed"""
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5
"""wire types of protocol buffers"""


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (POLYNOMIAL if byte & 1 else 0)
    return byte


REMAINDERS = [_remainder(byte) for byte in range(256)]


def crc32c(content: bytes) -> int:
    """The CRC-32C of `content`."""
    found = 0xFFFFFFFF
    for byte in content:
        found = REMAINDERS[(found ^ byte) & 0xFF] ^ (found >> 8)
    return found ^ 0xFFFFFFFF


def first_event(wall_time: float) -> bytes:
    """What an event file begins with: its version. `wall_time` is in seconds since 1970."""
    return record(_double(1, wall_time) + _bytes(3, VERSION))


def scalars_event(wall_time: float, step: int, scalars: Mapping[str, float]) -> bytes:
    """A record of values at a meta-step, by name; the part of a name before a slash groups them in TensorBoard."""
    values = b"".join(_bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in scalars.items())
    return record(_double(1, wall_time) + _key(2, VARINT) + _varint(step) + _bytes(5, values))


def record(content: bytes) -> bytes:
    """`content` in the frame of a TFRecord."""
    length = struct.pack("<Q", len(content))
    return length + _masked(length) + content + _masked(content)


def _masked(content: bytes) -> bytes:
    """Its checksum, as TFRecord stores it: turned and shifted, since a checksum of checksums tells little."""
    found = crc32c(content)
    return struct.pack("<I", ((found >> 15 | found << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, BYTES) + _varint(len(content)) + content


def _double(field: int, value: float) -> bytes:
    return _key(field, DOUBLE) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _key(field, FLOAT) + struct.pack("<f", value)
