"""The log of a run once more, for other programs: `metrics.csv`, and an event file for TensorBoard. Used by log.py.

`metrics.jsonl` is the one source. Both copies are written anew from it when a run begins, goes on or goes back, and
followed record by record in between: nothing is in them twice, and nothing is missing. The same records give the same
bytes, so a reader that follows the event file is not disturbed where nothing was taken back.

TensorBoard's event format, as bytes: scalars only. Used by training/metrics.py.

A file is a sequence of records (TFRecord: length, its checksum, content, its checksum), a record a protocol buffer
`Event`. The format is small and has not changed in years; libraries that write it bring threads and queues of their own,
and none can go back to where a checkpoint was. Here the same numbers are the same bytes.

Sources: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto, framework/summary.proto; CRC-32C: RFC
3720.
"""

from __future__ import annotations

import csv
import io
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.storage.arrays import atomic_write

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


TABLE = "metrics.csv"
EVENTS = "events.out.tfevents."
LARGEST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
"""float32, in which TensorBoard keeps scalars"""


class Copies:
    """`metrics.csv` and `events.out.tfevents.TIME.fewstep` in a folder, of these `records` and of those to come."""

    def __init__(self, folder: Path, records: Sequence[dict[str, Any]]):
        self.folder = folder
        known = sorted(folder.glob(f"{EVENTS}*.fewstep"))
        self._events_path = known[0] if known else folder / f"{EVENTS}{int(time.time()):010d}.fewstep"
        # A run's first second; what comes later stands at the seconds of training after it, however long the run was stopped.
        self._began = float(self._events_path.name.split(".")[-2])
        self._events = self._events_path.open("r+b" if known else "xb")
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._table: io.TextIOBase | None = None
        self.rewrite(records)

    def rewrite(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes both anew, of these `records`."""
        self._rows = [flat(record) for record in records]
        self._events.seek(0)  # in place: who has the file open goes on reading
        self._events.write(first_event(self._began) + b"".join(map(self._event, self._rows)))
        self._events.truncate()
        self._events.flush()
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        self._rewrite_table()

    def add(self, record: dict[str, Any]) -> None:
        """Appends a record. One with a new column has the table written anew."""
        row = flat(record)
        self._rows.append(row)
        self._events.write(self._event(row))
        self._events.flush()
        if new := [name for name in row if name not in self._columns]:
            self._columns += new
            self._rewrite_table()
        elif self._table is not None:
            self._table.write(self._lines([row]))
            self._table.flush()

    def close(self) -> None:
        self._events.close()
        if self._table is not None:
            self._table.close()

    def _rewrite_table(self) -> None:
        if self._table is not None:
            self._table.close()
        path = self.folder / TABLE
        heads = self._lines([dict(zip(self._columns, self._columns, strict=True))]) if self._columns else ""
        with atomic_write(path) as partial:
            partial.write_text(heads + self._lines(self._rows), encoding="utf-8", newline="")
        self._table = path.open("a", encoding="utf-8", newline="")

    def _lines(self, rows: Sequence[dict[str, Any]]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([[cell(row.get(name)) for name in self._columns] for row in rows])
        return text.getvalue()

    def _event(self, row: dict[str, Any]) -> bytes:
        scalars = {name: scalar(value) for name, value in row.items() if name != "meta_step" and not isinstance(value, str)}
        return scalars_event(self._began + (row.get("seconds") or 0.0), row.get("meta_step", 0), scalars)


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose lists are entries of their own: name/0, name/1, …"""
    found: dict[str, Any] = {}
    for name, value in record.items():
        found |= {f"{name}/{place}": part for place, part in enumerate(value)} if isinstance(value, list) else {name: value}
    return found


def cell(value: Any) -> Any:
    """As it stands in the table: true and false as in JSON, nothing where the number is not finite."""
    return str(value).lower() if isinstance(value, bool) else value


def scalar(value: float | bool | None) -> float:
    """As TensorBoard has it: what is not finite, which a log knows as nothing, is NaN; what float32 cannot hold is cut."""
    return float("nan") if value is None else max(-LARGEST, min(LARGEST, float(value)))
