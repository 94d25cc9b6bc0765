"""Parquet files of a few hundred bytes that unpack to many gigabytes, written by hand: name -> bytes. Used by
test_fuzz_tables.py. Place: `_parquet` of fewstep/storage/tables.py."""

import struct

from odd_tables import COLUMNS

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
DOUBLE, BYTES = 5, 6
"""kinds of Thrift's compact protocol, and of Parquet's columns"""


def varint(number):
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def encoded(kind, value):
    """One value in Thrift's compact protocol; a structure is a dict of {number: (kind, value)}, a list (kind, values)."""
    if kind in (I32, I64):
        return varint(value << 1 if value >= 0 else (-value << 1) - 1)
    if kind == BINARY:
        return varint(len(value)) + value
    if kind == LIST:
        of, values = value
        size = bytes([len(values) << 4 | of]) if len(values) < 15 else bytes([0xF0 | of]) + varint(len(values))
        return size + b"".join(encoded(of, each) for each in values)
    found, last = b"", 0
    for number, (of, each) in value.items():
        found, last = found + bytes([(number - last) << 4 | of]) + encoded(of, each), number
    return found + b"\0"


def page(kind, body, number, header):
    return encoded(STRUCT, {1: (I32, kind), 2: (I32, len(body)), 3: (I32, len(body)), number: (STRUCT, header)}) + body


def constant(kind, value, rows):
    """(dictionary page, data page) of a column that is `value` in all rows: one run of one index."""
    data = b"\x01" + varint(rows << 1) + b"\0"
    levels = {2: (I32, 8), 3: (I32, 3), 4: (I32, 3)}  # a dictionary's indices; levels are runs
    return page(2, value, 7, {1: (I32, 1), 2: (I32, 0)}), page(0, data, 5, {1: (I32, rows)} | levels)


def bomb(rows, groups=1, told=None, text=b"a"):
    """The columns of the sound table, constant, in so many groups of rows; `told`: of how many rows it says that it is."""
    told, file, chunks = rows if told is None else told, b"PAR1", []
    for name in COLUMNS:
        kind = BYTES if name == "unit" else DOUBLE
        value = struct.pack("<I", len(text)) + text if kind == BYTES else struct.pack("<d", 1.5)
        dictionary, data = constant(kind, value, rows)
        start, size = len(file), len(dictionary + data)
        about = {1: (I32, kind), 2: (LIST, (I32, [8])), 3: (LIST, (BINARY, [name.encode()])), 4: (I32, 0), 5: (I64, told)}
        about |= {6: (I64, size), 7: (I64, size), 9: (I64, start + len(dictionary)), 11: (I64, start)}
        chunks.append({2: (I64, start), 3: (STRUCT, about)})
        file += dictionary + data
    root = {4: (BINARY, b"root"), 5: (I32, len(COLUMNS))}
    schema = [root] + [
        {1: (I32, BYTES if name == "unit" else DOUBLE), 3: (I32, 0), 4: (BINARY, name.encode())} for name in COLUMNS
    ]
    group = {1: (LIST, (STRUCT, chunks)), 2: (I64, 100), 3: (I64, told)}
    about = {1: (I32, 1), 2: (LIST, (STRUCT, schema)), 3: (I64, told * groups), 4: (LIST, (STRUCT, [group] * groups))}
    footer = encoded(STRUCT, about)
    return file + footer + struct.pack("<I", len(footer)) + b"PAR1"


def bombs():
    yield "36 constant rows", bomb(36)
    yield "two thousand million rows", bomb(2**31 - 1)
    yield "a hundred groups of ten million rows", bomb(10**7, 100)
    yield "a thousand groups of a thousand million rows", bomb(10**9, 1000)
    yield "36 rows, it says, of two thousand million", bomb(2**31 - 1, told=36)
    yield "two thousand million rows, it says, of 36", bomb(36, told=2**31 - 1)
    yield "more rows than there are numbers, it says", bomb(36, told=2**62)
    yield "fewer than no rows, it says", bomb(36, told=-5)
    yield "a long word in a million rows", bomb(10**6, text=b"x" * 10**6)
