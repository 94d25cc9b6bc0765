"""Files that are given for a table: name -> bytes. Used by test_fuzz_tables.py."""

import io
import random

import polars as pl

UNITS, ROWS = 6, 6
COLUMNS = ("unit", "day", "depth", "flow")
OPTIONS = ["--task", "unit", "--inputs", "day", "depth", "--target", "flow"]


def rows(units=UNITS, count=ROWS, seed=0):
    """A sound table as lists of words, the header first."""
    draw = random.Random(seed)
    found = [list(COLUMNS)]
    for unit in range(units):
        for day in range(count):
            depth = draw.uniform(1, 9)
            found.append(
                [
                    f"unit-{unit}",
                    f"2016-{day // 28 % 12 + 1:02}-{day % 28 + 1:02}",
                    f"{depth:.3f}",
                    f"{unit + depth + draw.random():.3f}",
                ]
            )
    return found


def text(table, separator=",", end="\n"):
    return end.join(separator.join(row) for row in table) + end


def wide(table, columns):
    """The table with so many more columns, of whole numbers; its header gets numbers too."""
    return [[*row, *map(str, range(columns))] for row in table]


def changed(change):
    """The sound table after `change`, a function that alters its rows."""
    table = rows()
    change(table)
    return text(table).encode()


def with_column(name, value):
    """The sound table with the values of a column replaced: by `value`, or by what it gives for each row."""
    table = rows()
    place = table[0].index(name)
    for number, row in enumerate(table[1:]):
        row[place] = value(number, row[place]) if callable(value) else value
    return text(table).encode()


def with_cells(name, *values, at=(0,)):
    """The sound table with single cells of a column replaced."""
    return with_column(name, lambda number, old: values[number % len(values)] if number in at else old)


def parquet(frame, **options):
    buffer = io.BytesIO()
    frame.write_parquet(buffer, **options)
    return buffer.getvalue()


def frame():
    return pl.read_csv(text(rows()).encode())


SOUND = text(rows()).encode()
UMLAUTS = text([[cell.replace("unit-", "Höhe-") for cell in row] for row in rows()])
CELLS = [
    *("", " ", "NA", "nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1e400", "1e308", "1e-400", "0", "-0", "1,5", "1.5.2"),
    *("1 000", "1_000", "0x10", "12abc", "true", "TRUE", "yes", "?", "null", "None", "#DIV/0!", "9" * 30, "-" + "9" * 400),
    *(
        "18446744073709551616",
        "9223372036854775808",
        "2016-01-31",
        "31/01/2016",
        "2016-13-45",
        "0000-00-00",
        "2016-01-31T25:00",
    ),
    *(
        "99999-01-01",
        "1969-12-31",
        "--json",
        "-1",
        "=1+1",
        "'",
        '"',
        '""',
        '"a',
        "a\x00b",
        "\x00",
        "\x1b[31m",
        "\u202e",
        "é",
        "😀",
    ),
    *(
        "x" * 10_000,
        "\\",
        "\\n",
        "{}",
        "%s",
        "{0}",
        "$HOME",
        "../../x",
        "[bold]",
        "\ufeff",
        "１２",
        "½",
        "∞",
        "−3",
        "+3",
        "3%",
        "€3",
        "1,234",
        "1.234",
        "1.234,5",
        "1\u00a0054",
        "1'234",
        "12 %",
        "$1.20",
        "3 kg",
        "(3)",
        "1,5e3",
        "1,234,56",
        "2016-01-31T08:00+01:00",
        "2016-01-31T08:00:00Z",
    ),
]
WAYS = {
    "with thousands": lambda number: f"{number + 990:,}",
    "with thousands and decimal commas": lambda number: f"{number + 990}".replace("1", "1.", 1) + ",5",
    "of which some have points before three digits": lambda number: f"{number}.{number % 10}00" if number % 2 else "950",
    "with decimal points and with decimal commas": lambda number: f"{number}{'.,'[number % 2]}5",
    "in per cent": lambda number: f"{number}%",
    "in dollars and in euros": lambda number: f"{'$€'[number % 2]}{number}",
    "in kilograms": lambda number: f"{number} kg",
    "in kilograms and in grams": lambda number: f"{number} {'kg'[number % 2 :]}",
    "in parentheses": lambda number: f"({number})",
    "with true minus signs": lambda number: f"−{number}",
    "with thin blanks": lambda number: f"{number + 1}\u2009000",
}
TWINS = ("001", "01", "1", "1.0", " 1", "Shop 1", "shop 1", "shop  1")
NAMES = [
    *("", " ", "--task", "-1", "depth ", "Depth", "@file", "prediction", "lower", "unit", "flow", "day", "\x00", "\x1b[31mred"),
    *(
        "x" * 10_000,
        "a,b",
        '"',
        "'",
        "é",
        "😀",
        "\u202e",
        "depth_duplicated_0",
        "column_1",
        "literal",
        "index",
        "../../x",
        "{}",
        "%s",
    ),
    *("[bold]", "None", "nan", "0", "1.5", "true", "*", "^.*$", "^d.*$", "\ufeff"),
]


def encodings():
    for name in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-7", "cp037", "mac-roman"):
        yield f"in {name}", UMLAUTS.encode(name)
    for name in ("shift-jis", "gb18030", "big5", "euc-kr"):
        yield f"in {name}", UMLAUTS.replace("Höhe", "中山").encode(name)
    yield "surrogates in utf-8", SOUND.replace(b"unit-0", b"\xed\xa0\x80")
    yield "a byte that is no utf-8 in the header", SOUND.replace(b"depth", b"dep\xfft")
    yield "a byte that is no utf-8 in a number", SOUND.replace(b"2016-01-02,", b"2016-01-02,\xff")
    yield "two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf" + SOUND
    yield "a byte order mark alone", b"\xef\xbb\xbf"


def layouts():
    table = rows()
    for separator in (";", "\t", "|", " ", ":", ",,", "\x00", "\x1f"):
        yield f"separated by {separator!r}", text(table, separator).encode()
    for end in ("\r\n", "\r", "\n\n", "\r\r\n", "\x0b", "\u2028", "\x00"):
        yield f"lines that end in {end!r}", text(table, end=end).encode()
    yield "no end of the last line", SOUND.rstrip(b"\n")
    yield "blank lines around", b"\n\n\n" + SOUND + b"\n\n\n"
    yield "an empty file", b""
    yield "one line end", b"\n"
    yield "many line ends", b"\n" * 100_000
    yield "a NUL", b"\x00"
    yield "many NULs", b"\x00" * 100_000
    yield "a header alone", SOUND.split(b"\n")[0] + b"\n"
    yield "a header without a line end", SOUND.split(b"\n")[0]
    yield "one row", b"\n".join(SOUND.split(b"\n")[:2])
    yield "two rows", b"\n".join(SOUND.split(b"\n")[:3])
    yield "no header", SOUND.partition(b"\n")[2]
    yield "the header twice", SOUND.split(b"\n")[0] + b"\n" + SOUND
    yield "the header as the last row", SOUND + SOUND.split(b"\n")[0]
    yield "everything quoted", text([[f'"{cell}"' for cell in row] for row in table]).encode()
    yield "everything in single quotes", text([[f"'{cell}'" for cell in row] for row in table]).encode()
    yield "a quote that is never closed", SOUND.replace(b"unit-3", b'"unit-3', 1)
    yield "a quote that the header never closes", b'"' + SOUND
    yield "a quote in the middle of a cell", SOUND.replace(b"unit-3", b'un"it-3', 1)
    yield "line ends inside quotes", SOUND.replace(b"unit-3", b'"unit\n3"')
    yield "separators inside quotes", SOUND.replace(b"unit-3", b'"unit,3"')
    yield "rows that are too short", changed(lambda table: [row.pop() for row in table[5:8]])
    yield "rows that are too long", changed(lambda table: [row.append("1") for row in table[5:8]])
    yield "a row that is far too long", changed(lambda table: table[5].extend(["1"] * 10_000))
    yield "a header that is too short", changed(lambda table: table[0].pop())
    yield "a header that is too long", changed(lambda table: table[0].append("more"))
    yield "a header with empty names", changed(lambda table: table[0].extend(["", "", ""]))
    yield "a comment first", b"# made by hand\n" + SOUND
    yield "comments alone", b"# made by hand\n" * 9
    yield "a header after a hash", b"# " + SOUND
    yield "comments with separators", b"# a,b,c,d\n#,,,\n" + SOUND
    yield "blanks after commas", SOUND.replace(b",", b", ")
    yield "one record of json", b'{"unit": "a", "day": "2016-01-01"}'
    yield "an address", b"https://example.org/table.csv"
    yield "a title above", b"Flow of rivers,,,\n,,,\n" + SOUND
    yield "a total below", SOUND + b"total,,,99\n"
    yield "columns turned to rows", text([list(row) for row in zip(*table, strict=True)]).encode()
    yield "two hundred columns", text(wide(table, 200)).encode()
    yield "blanks around all cells", text([[f"  {cell}  " for cell in row] for row in table]).encode()
    yield "json", b'[{"unit": "a", "day": "2016-01-01", "depth": 1, "flow": 2}]'
    yield "lines of json", b'{"unit": "a", "day": "2016-01-01", "depth": 1, "flow": 2}\n' * 9
    yield "html", b"<html><table><tr><td>unit</td><td>flow</td></tr></table></html>\n" * 9
    yield "a page that says 404", b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"
    yield "a pointer of git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    yield "random bytes", random.Random(0).randbytes(20_000)
    yield "all bytes", bytes(range(256)) * 40
    for magic, name in ((b"PK\x03\x04", "zip"), (b"\x1f\x8b\x08", "gzip"), (b"BZh9", "bzip2"), (b"\xfd7zXZ\x00", "xz")):
        yield f"the start of a {name}", magic + bytes(range(256))
    for magic, name in (
        (b"(\xb5/\xfd", "zstd"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"%PDF-1.7\n", "pdf"),
        (b"\x7fELF", "program"),
    ):
        yield f"the start of a {name}", magic + bytes(range(256))
    for magic, name in ((b"PAR1", "parquet"), (b"ARROW1\x00\x00", "arrow"), (b"SQLite format 3\x00", "database")):
        yield f"the start of a {name}", magic + bytes(range(256))


def squeezed():
    import bz2
    import gzip
    import lzma
    import zipfile

    yield "a table in gzip", gzip.compress(SOUND)
    yield "a table in bzip2", bz2.compress(SOUND)
    yield "a table in xz", lzma.compress(SOUND)
    yield "half a table in gzip", gzip.compress(SOUND * 9)[:60]
    yield "a bomb in gzip", gzip.compress(SOUND + b"unit-9,2016-01-01,1,1\n" * 2_000_000, 9)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("units.csv", SOUND)
    yield "a table in zip", buffer.getvalue()


def values():
    for name in COLUMNS:
        for cell in ("", "5", "inf", "nan", "word", "2016-01-01", "true", "9" * 30, "1e308"):
            yield f"{name}: {cell[:20]!r} in all rows", with_column(name, cell)
        yield f"{name}: another word in every row", with_column(name, lambda number, old: f"word {number}")
        yield f"{name}: another number in every row", with_column(name, lambda number, old: str(number))
        yield f"{name}: huge whole numbers", with_column(name, lambda number, old: str(10**25 + number))
        yield f"{name}: huge numbers", with_column(name, lambda number, old: f"{number + 1}e300")
        yield f"{name}: tiny numbers", with_column(name, lambda number, old: f"{number + 1}e-300")
        yield f"{name}: numbers beyond float32", with_column(name, lambda number, old: f"{number + 1}e60")
        yield f"{name}: half numbers, half words", with_column(name, lambda number, old: "word" if number % 2 else old)
        yield f"{name}: half numbers, half dates", with_column(name, lambda number, old: "2016-02-03" if number % 2 else "7")
        yield (
            f"{name}: two formats of dates",
            with_column(name, lambda number, old: "03/02/2016" if number % 2 else "2016-02-03"),
        )
        yield (
            f"{name}: moments with zones",
            with_column(name, lambda number, old: f"2016-02-{number % 28 + 1:02}T10:00+0{number % 9}:00"),
        )
        yield f"{name}: times alone", with_column(name, lambda number, old: f"10:{number:02}")
        yield f"{name}: yes, no and perhaps", with_column(name, lambda number, old: ("yes", "no", "perhaps")[number % 3])
        yield f"{name}: yes and no", with_column(name, lambda number, old: ("yes", "no")[number % 2])
        yield f"{name}: a value in one row", with_column(name, lambda number, old: old if number == 7 else "")
        yield f"{name}: the rest of a row is empty", with_column(name, lambda number, old: old + ",,,")
        yield f"{name}: missing", text([[c for c, n in zip(row, COLUMNS, strict=True) if n != name] for row in rows()]).encode()
    for name in COLUMNS:
        for kind, write in WAYS.items():
            yield f"{name}: numbers {kind}", with_column(name, lambda number, old, write=write: f'"{write(number)}"')
    yield (
        "unit: labels that differ in zeros, case and blanks",
        with_column("unit", lambda number, old: TWINS[number % len(TWINS)]),
    )
    yield (
        "day: a change of clocks",
        with_column("day", lambda number, old: f"2016-03-27T{number % 24:02}:00+0{number % 2 + 1}:00"),
    )
    yield "day: a zone in some rows alone", with_column("day", lambda number, old: f"2016-03-27T08:00{'Z' * (number % 2)}")
    for name in ("depth", "flow"):
        far = {"a thousand times as large": 1e3, "a million times as large": 1e6, "beyond all measure": 1e20, "negative": -1e4}
        for what, factor in far.items():
            scale = [factor] * ROWS + [1.0] * ROWS * (UNITS - 1)
            scaled = with_column(name, lambda number, old, scale=scale: f"{float(old) * scale[number]:.6g}")
            yield f"{name}: {what} in one unit", scaled
        yield f"{name}: a word in one unit", with_cells(name, "word", at=range(ROWS))
        yield f"{name}: empty in one unit", with_cells(name, "", at=range(ROWS))
    yield "other units", with_column("unit", lambda number, old: f"new-{old}")
    yield "other units beside known ones", with_column("unit", lambda number, old: old if number % 12 < ROWS else f"new-{old}")
    yield "one task", with_column("unit", "unit-0")
    yield "two tasks", with_column("unit", lambda number, old: f"unit-{number % 2}")
    yield "one row a task", with_column("unit", lambda number, old: f"unit-{number}")
    yield "one long task, others of one row", with_column("unit", lambda number, old: f"unit-{max(0, number - 25)}")
    yield "the target is an input", text([[*row[:3], row[2]] for row in [rows()[0], *rows()[1:]]]).encode()
    yield "targets that do not change", with_column("flow", "3.5")
    yield "targets that change in one task alone", with_column("flow", lambda number, old: old if number < ROWS else "3.5")
    yield "a hundred classes", with_column("flow", lambda number, old: f"class {number}")
    yield "one class in all tasks but one", with_column("flow", lambda number, old: "b" if number == 0 else "a")


def gaps():
    """Tables to learn depth and flow from, of which rows lack one or both."""
    for parts in (2, 3, 5, ROWS):
        for depth in range(parts):
            table = rows()
            for number, row in enumerate(table[1:]):
                row[2] = "" if number % parts == depth else row[2]
                row[3] = "" if number % parts == 0 else row[3]
            yield f"depth lacks in row {depth} of {parts}, flow in row 0", text(table).encode()
    for name in ("depth", "flow"):
        yield f"{name} lacks in one unit", with_cells(name, "", at=range(ROWS))
        yield f"{name} lacks in all units but one", with_column(name, lambda number, old: old if number < ROWS else "")
        yield f"{name} lacks in all rows", with_column(name, "")
        yield f"{name} is known in one row", with_column(name, lambda number, old: old if number == 9 else "")


def cells():
    for cell in CELLS:
        yield f"flow has {cell[:30]!r}", with_cells("flow", cell)
        yield f"depth has {cell[:30]!r}", with_cells("depth", cell, at=(0, 9))
    for cell in CELLS[::3]:
        yield f"day has {cell[:30]!r}", with_cells("day", cell, at=(3,))
        yield f"unit has {cell[:30]!r}", with_cells("unit", cell, at=(3, 4))


def headers():
    for name in NAMES:
        for place, old in enumerate(COLUMNS[2:], 2):
            yield (
                f"{old} is called {name[:30]!r}",
                changed(lambda table, name=name, place=place: table[0].__setitem__(place, name)),
            )
        yield (
            f"a column more, {name[:30]!r}",
            changed(lambda table, name=name: [row.append(name if i == 0 else "1") for i, row in enumerate(table)]),
        )


def binary():
    sound = parquet(frame())
    yield "parquet: sound", sound
    for size in (0, 1, 4, 8, len(sound) // 4, len(sound) // 2, len(sound) - 9, len(sound) - 1):
        yield f"parquet: the first {size} bytes", sound[:size]
    draw = random.Random(0)
    for number in range(24):
        damaged = bytearray(sound)
        for _ in range(1 + number // 4):
            place = draw.randrange(len(damaged))
            damaged[place] ^= 1 << draw.randrange(8)
        yield f"parquet: damage {number}", bytes(damaged)
    yield "parquet: followed by more", sound + b"more"
    yield "parquet: text", SOUND
    odd = {
        "lists": pl.lit(pl.Series([[1.0, 2.0]])),
        "structs": pl.struct(pl.lit(1).alias("a")),
        "bytes": pl.lit(b"\xff\x00"),
        "durations": pl.lit(1).cast(pl.Duration("ms")),
        "times of day": pl.time(1, 2, 3),
        "categories": pl.lit("a").cast(pl.Categorical),
        "nothing": pl.lit(None),
        "whole numbers of 8 bits": (pl.int_range(pl.len()) % 100).cast(pl.Int8),
        "whole numbers of 128 bits": pl.int_range(pl.len()).cast(pl.Int128),
        "decimals": pl.lit("1.25").cast(pl.Decimal(10, 2)),
        "moments with a zone": pl.datetime(2016, 1, 1, time_zone="Europe/Berlin"),
        "years far away": pl.lit(10**15).cast(pl.Datetime("us")),
        "infinities": pl.lit(float("inf")),
        "no numbers": pl.lit(float("nan")),
        "yes or no": pl.int_range(pl.len()) % 2 == 0,
    }
    for column in COLUMNS:
        for kind, value in odd.items():
            try:
                yield f"parquet: {column} holds {kind}", parquet(frame().with_columns(value.alias(column)))
            except pl.exceptions.PolarsError:  # what this version cannot write, nobody can give
                continue
    yield "parquet: no rows", parquet(frame().head(0))
    yield "parquet: no columns", parquet(pl.DataFrame())


def other_files():
    """(ending, name, bytes) of files that are no text and no Parquet, sound and damaged."""
    arrow, lines, records = io.BytesIO(), io.BytesIO(), io.BytesIO()
    frame().write_ipc(arrow)
    frame().write_ndjson(lines)
    frame().write_json(records)
    for ending, content in (("arrow", arrow), ("feather", arrow), ("jsonl", lines), ("json", records)):
        sound = content.getvalue()
        yield ending, "sound", sound
        yield ending, "empty", b""
        yield ending, "half", sound[: len(sound) // 2]
        yield ending, "text", SOUND
        damaged = bytearray(sound)
        damaged[len(sound) // 3] ^= 255
        yield ending, "damaged", bytes(damaged)
    yield "json", "nested", b'[{"unit": {"a": [1, {"b": null}]}, "flow": [1]}]'
    yield "json", "columns", b'{"unit": ["a"], "flow": [1]}'
    for ending in ("xlsx", "xls", "ods", "sqlite", "db", "txt"):
        yield ending, "no spreadsheet", b"PK\x03\x04" + bytes(range(256))
        yield ending, "a database", b"SQLite format 3\x00" + bytes(range(256))


def mixtures(count):
    """Tables with several faults at a time, drawn by number."""
    for number in range(count):
        draw = random.Random(number)
        table = rows(draw.choice((1, 2, 3, 6, 9)), draw.choice((1, 2, 6)), number)
        for _ in range(draw.randrange(1, 8)):
            row, place = draw.randrange(len(table)), draw.randrange(4)
            fault = draw.randrange(6)
            if fault < 3 and place < len(table[row]):
                table[row][place] = draw.choice(CELLS)
            elif fault == 3:
                name = draw.choice(("", "1e300", "word", "2016-01-01"))
                for each in table[1:]:
                    if place < len(each) and draw.random() < 0.7:
                        each[place] = name
            elif fault == 4:
                table[row] = table[row][: draw.randrange(5)]
            else:
                table.insert(row, draw.choice((["", "", "", ""], ["x"], list(COLUMNS))))
        found = text(table, draw.choice((",", ",", ",", ";", "\t")), draw.choice(("\n", "\n", "\r\n")))
        yield f"mixture {number}", found.encode(draw.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")), "surrogatepass")


def unique(*sources):
    """name -> bytes; of equal files the first."""
    found, seen = {}, set()
    for source in sources:
        for name, content in source:
            if content not in seen:
                seen.add(content)
                found[name] = content
    return found
