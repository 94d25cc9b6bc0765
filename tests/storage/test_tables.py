"""Files as tables: separators, gaps, patterns of files, dates as text, and what is no table. Place: fewstep/tasks/reading."""

import datetime
import gzip
import io
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from fewstep import InputError
from fewstep.storage.tables import FILE, SUFFIXES, column_of, read_table, write_table
from fewstep.storage.text_files import GAPS
from fewstep.supervised.dates import DATES, date_formats, parse_dates
from fewstep.supervised.infer_kinds import infer_kind
from fewstep.supervised.kinds import read_values, read_words

TABLE = pl.DataFrame(
    {
        "unit": ["a", "a", "b", "c"],
        "day": ["2016-01-03", "2016-01-04", None, "2016-02-29"],
        "size": [1.5, None, -3.25, 1e-9],
        "count": [1, 2, 3, -4],
        "open": [True, False, None, True],
    }
)


def written(path, text):
    path.write_bytes(text.encode("utf-8"))
    return path


def numbers(table, name):
    return read_values(table, name, infer_kind(table, name, "t"), "t").tolist()


def refused(act, *words):
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert 1 <= len(message.splitlines()) <= 3
    return message


@pytest.mark.parametrize("gap", ["", "NA", "NaN", "null", "?", " NA "])
@pytest.mark.parametrize(
    ("suffix", "separator"), [(".csv", ","), (".csv", ";"), (".csv", "\t"), (".tsv", "\t"), (".tab", "\t")]
)
def test_a_table_reads_the_same_whatever_separates_its_columns_and_stands_for_its_gaps(tmp_path, suffix, separator, gap):
    path = tmp_path / f"table{suffix}"
    TABLE.write_csv(path, separator=separator, null_value=gap)
    read = read_table(path)
    if gap.strip() == gap:
        assert read.schema == TABLE.schema
    else:  # blanks around a gap make its column text, which later is read as numbers
        read = read.with_columns(pl.col("size").cast(pl.Float64), pl.col("open") == "true")
    assert read.equals(TABLE)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_the_columns_asked_for_are_read_as_they_stand_in_the_whole_table(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        TABLE.write_parquet(path)
    else:
        path.write_bytes(gzip.compress(TABLE.write_csv().encode()) if suffix == ".csv.gz" else TABLE.write_csv().encode())
    wanted = TABLE.columns[::-2]
    read = read_table(path, wanted)
    assert set(read.columns) == set(wanted)
    assert read.equals(read_table(path).select(read.columns))
    first = TABLE.columns[0]
    refused(lambda: read_table(path, [first + "s"]), str(path), f"no column '{first}s'", f"did you mean '{first}'?")


@pytest.mark.skipif(sys.platform != "linux", reason="the most memory that a process has had is read from /proc")
def test_a_wide_file_takes_the_memory_of_the_columns_that_are_used(tmp_path):
    rows, columns, most = 50_000, 100, {}
    wide = pl.DataFrame({f"c{number}": np.random.default_rng(number).normal(size=rows) for number in range(columns)})
    wide.write_csv(tmp_path / "wide.csv")
    for wanted in (0, 3):
        script = "import sys; from fewstep.storage.tables import read_table; read_table(sys.argv[1], sys.argv[2:]); "
        script += "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        names = [f"c{number}" for number in range(wanted)]
        told = subprocess.run([sys.executable, "-c", script, tmp_path / "wide.csv", *names], capture_output=True, check=True)
        most[wanted] = int(told.stdout) * 1024
    assert most[0] - most[3] > 0.5 * rows * columns * 8


def test_every_gap_is_a_gap_in_a_column_of_numbers_and_of_words(tmp_path):
    path = written(tmp_path / "t.csv", "unit,x,word\n" + "".join(f"u,{gap},{gap}\nu,1.5,w\n" for gap in GAPS))
    read = read_table(path)
    assert read["x"].to_list() == [None, 1.5] * len(GAPS)
    assert read["word"].to_list() == [None, "w"] * len(GAPS)


@pytest.mark.parametrize("suffix", [".parquet", ".pq", ".PARQUET"])
def test_parquet_columns_keep_their_kinds(tmp_path, suffix):
    table = TABLE.with_columns(
        pl.col("unit").cast(pl.Categorical), pl.col("day").str.to_date(), size=pl.col("size").cast(pl.Float32)
    )
    table.write_parquet(tmp_path / f"t{suffix}")
    assert read_table(tmp_path / f"t{suffix}").equals(table)
    assert column_of(table, "unit", "t").to_list() == ["a", "a", "b", "c"]
    assert column_of(table, "unit", "t").dtype == pl.String


@pytest.mark.parametrize(
    "rows",
    [
        "a;1,5;2\nb;-2,25;3\n",
        "a;1;2\nb;-2,25;3\n",  # a whole number first
        'a;"1,5";2\nb;"-2,25";3\n',
        "a;1,5;2\r\nb;-2,25;3\r\n",
    ],
)
def test_where_semicolons_separate_a_comma_is_a_decimal_point(tmp_path, rows):
    read = read_table(written(tmp_path / "t.csv", "name;x;n\n" + rows))
    assert numbers(read, "x")[1] == -2.25
    assert numbers(read, "n") == [2, 3]
    first = read_table(written(tmp_path / "t.csv", "x;name\n1;a\n2,5;b\n"))  # only the first column has a comma
    assert numbers(first, "x") == [1.0, 2.5]


def test_where_semicolons_separate_a_decimal_point_is_one_too(tmp_path):
    read = read_table(written(tmp_path / "t.csv", "name;x;words\na;1.5;p,q\nb;-2.25;r\n"))
    assert read["x"].to_list() == [1.5, -2.25]
    assert read["words"].to_list() == ["p,q", "r"]


def test_quoted_words_may_hold_separators_even_in_the_header(tmp_path):
    read = read_table(written(tmp_path / "t.csv", 'x,"a;b;c;d"\n1,"p,q"\n2,r;s\n'))
    assert read.columns == ["x", "a;b;c;d"]
    assert read.rows() == [(1, "p,q"), (2, "r;s")]


def test_the_mark_of_byte_order_and_lines_without_values_are_no_part_of_the_table(tmp_path):
    plain = read_table(written(tmp_path / "t.csv", "unit,x\na,1\nb,2\n"))
    assert read_table(written(tmp_path / "t.csv", "\ufeffunit,x\n\na,1\n,\nb,2\n\n")).equals(plain)


def test_blanks_around_words_and_numbers_do_not_count(tmp_path):
    read = read_table(written(tmp_path / "t.csv", "unit,x\na , 1.5\n a,2\n"))
    assert read["unit"].to_list() == ["a", "a"]
    assert read["x"].cast(pl.Float64).to_list() == [1.5, 2.0]


@pytest.mark.parametrize("late", ["2.5", "word"])
def test_what_comes_after_ten_thousand_rows_counts_as_much_as_what_comes_first(tmp_path, late):
    read = read_table(written(tmp_path / "t.csv", "x,n\n" + "1,2\n" * 10_001 + f"{late},3\n"))
    assert str(read["x"].to_list()[-1]) == late
    assert read["n"].to_list()[-1] == 3


def test_a_file_that_cannot_be_read_as_a_table_is_refused(tmp_path):
    refused(lambda: read_table(tmp_path / "none.csv"), "none.csv", "no such file")
    refused(lambda: read_table(tmp_path), str(tmp_path), "a folder", "--task @file")
    for name, content in {
        "junk.csv": bytes(range(256)) * 40,
        "junk.parquet": b"PAR1 this is none PAR1",
        "ragged.csv": b"a,b\n1,2\n3,4,5,6\n",
        "empty.csv": b"",
        "latin.csv": "a,b\nZürich,2\n".encode("latin-1"),
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(lambda path=tmp_path / name: read_table(path), name, "expected")
    for text in ("a,b\n", "a,b\n,\n\n"):
        refused(lambda text=text: read_table(written(tmp_path / "t.csv", text)), "expected rows")


@pytest.mark.parametrize("header", ["a,b,a", "a,a,b", "b,a,a,a", ",x,"])
def test_two_columns_of_one_name_are_refused(tmp_path, header):
    path = written(tmp_path / "t.csv", f"{header}\n{','.join('1' * len(header.split(',')))}\n")
    refused(lambda: read_table(path), "t.csv", repr(header.split(",")[-1] if header != "a,a,b" else "a"), "twice")


def units(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        written(folder / f"{name}.csv", text)
    return str(folder / "*.csv")


def test_a_pattern_reads_all_its_files_as_one_table_that_says_which_file_a_row_is_from(tmp_path):
    pattern = units(tmp_path / "units", north="x,y\n1,2\n3,4\n", east="y,x\n6,5\n")  # the order of columns may differ
    assert sorted(read_table(pattern).select("x", "y", FILE).rows()) == [(1, 2, "north"), (3, 4, "north"), (5, 6, "east")]


def test_files_of_one_name_in_several_folders_are_told_apart(tmp_path):
    for folder in ("p", "q"):
        units(tmp_path / folder, data=f"x\n{folder == 'q':d}\n")
    read = read_table(f"{tmp_path}/*/data.csv")
    assert read["x"].to_list() == [0, 1]
    assert [name.endswith(f"{folder}/data") for name, folder in zip(read[FILE], "pq", strict=True)] == [True, True]


def test_a_column_that_is_empty_or_whole_in_one_file_and_has_fractions_in_another_is_one_column(tmp_path):
    files = {"a": "x,e,w,b\n2,,,\n", "b": "x,e,w,b\n1.5,2,v,true\n", "c": "x,e,w,b\n3,1.5,,false\n"}
    read = read_table(units(tmp_path / "u", **files))
    assert read["x"].to_list() == [2.0, 1.5, 3.0]
    assert read["e"].cast(pl.Float64).to_list() == [None, 2.0, 1.5]
    assert read["w"].to_list() == [None, "v", None]
    assert read["b"].to_list() == [None, True, False]


def test_files_without_rows_add_none_and_files_that_all_have_none_are_refused(tmp_path):
    assert read_table(units(tmp_path / "u", a="x,y\n", b="x,y\n1,2\n")).select("x", "y", FILE).rows() == [(1, 2, "b")]
    refused(lambda: read_table(units(tmp_path / "v", a="x,y\n", b="x,y\n")), "expected rows", "2 tables")


def test_files_whose_columns_differ_are_refused_with_the_columns_in_which_they_differ(tmp_path):
    pattern = units(tmp_path / "u", a="x,y\n1,2\n", b="x,z\n1,2\n")
    message = refused(lambda: read_table(pattern), "b.csv", "a.csv", "'y', 'z'")
    assert "'x'" not in message
    refused(lambda: read_table(str(tmp_path / "w" / "*.csv")), "*.csv", "none that fit")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    written(tmp_path / "t1.csv", "x\n8\n")
    assert read_table(written(tmp_path / "t[1].csv", "x\n7\n")).rows() == [(7,)]
    pl.DataFrame({"x": [9]}).write_parquet(tmp_path / "t[2].parquet")
    assert read_table(tmp_path / "t[2].parquet").rows() == [(9,)]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_file_whose_name_is_no_text_is_read_as_any_other(tmp_path, suffix):
    path = tmp_path / f"caf\udce9{suffix}"
    sound = pl.DataFrame({"x": [1, 2], "word": ["a", "b"]})
    with path.open("wb") as file:
        if suffix == ".parquet":
            sound.write_parquet(file)
        else:
            file.write(gzip.compress(sound.write_csv().encode()) if suffix == ".csv.gz" else sound.write_csv().encode())
    assert read_table(path).equals(sound)


def test_an_unknown_column_is_refused_with_the_nearest_name():
    refused(lambda: column_of(TABLE, "szie", "t.csv"), "t.csv", "'szie'", "did you mean 'size'?")
    refused(lambda: column_of(TABLE, "zzzzz", "t.csv"), "'zzzzz'", "'unit', 'day', 'size'")
    refused(lambda: column_of(TABLE, "size,count", "t.csv"), "separate columns by spaces")
    refused(lambda: column_of(TABLE, FILE, "t.csv"), "--data is a pattern")


MOMENTS = [datetime.datetime(2016, 1, 31, 5, 6, 7), datetime.datetime(2015, 12, 13, 23, 59, 0), datetime.datetime(1999, 2, 28)]


def as_python(format):
    """The same format in the words of Python's strftime, in a zone of UTC + 2."""
    return format.replace("%S%.f", "%S.%f").replace("%#z", "+0200")


@pytest.mark.parametrize("format", DATES)
def test_what_python_writes_as_a_date_is_read_as_the_same_moment(format):
    texts = pl.Series([moment.strftime(as_python(format)) for moment in MOMENTS])
    zone = datetime.timedelta(hours=2 if "%#z" in format else 0)
    expected = [datetime.datetime.strptime(text, as_python(format)) - zone for text in texts]
    found = date_formats(texts)
    assert format in found
    for one in found:  # with days beyond 12, formats that fit mean the same
        assert parse_dates(texts, one).to_list() == expected


@pytest.mark.parametrize(
    "text", ["3 jan 2016", "03-Jan-16", "January 3, 2016", "Jan 3, 2016", "2016-01-03T00:00Z", " 2016-01-03 "]
)
def test_other_ways_to_write_the_third_of_january_are_read_too(text):
    formats = date_formats(pl.Series([text]))
    assert parse_dates(pl.Series([text]), formats[0]).to_list() == [datetime.datetime(2016, 1, 3)]


@pytest.mark.parametrize(
    "texts",
    [["1.2.3", "1.2.4"], ["10.0.0.1", "192.168.1.1"], ["12-34-56"], ["16-01-02"], ["a1", "b2"], ["1-2-3"], [None], ["2016"]],
)
def test_versions_addresses_and_codes_are_no_dates(texts):
    assert date_formats(pl.Series(texts, dtype=pl.String)) == []


def test_dates_are_recognized_by_looking_at_all_of_them():
    days = [str(datetime.date(2016, 1, 1) + datetime.timedelta(days=day)) for day in range(3000)]
    assert date_formats(pl.Series(days)) == ["%Y-%m-%d"]
    with pytest.raises(ValueError, match=r"dates in two formats, such as '2016-01-01' and '31\.12\.2030'"):
        date_formats(pl.Series([*days, "31.12.2030"]))
    with pytest.raises(ValueError, match="dates such as '2016-01-01' beside 'lost', which is none"):
        date_formats(pl.Series([*days, "lost"]))
    assert date_formats(pl.Series(["2016-01-01", *(f"case {number}" for number in range(5))])) == []


def test_many_days_of_which_one_alone_tells_days_from_months_are_read_in_its_order():
    first = [f"{day:02}/{month:02}/2016" for day in range(1, 13) for month in range(1, 13)]
    assert date_formats(pl.Series(first)) == ["%d/%m/%Y", "%m/%d/%Y"]
    assert date_formats(pl.Series([*first, "13/01/2016"])) == ["%d/%m/%Y"]
    assert date_formats(pl.Series([*first, "01/13/2016"])) == ["%m/%d/%Y"]
    assert np.unique(parse_dates(pl.Series(first), "%d/%m/%Y").to_numpy()).size == 144


@pytest.mark.parametrize("value", [pl.lit(b"\xff"), pl.lit(1).cast(pl.Duration("ms")), pl.concat_list("x")])
def test_bytes_durations_and_lists_are_refused_in_words(value):
    table = pl.DataFrame({"x": [1, 2]}).with_columns(value.alias("odd"))
    with pytest.raises(InputError, match=r"'odd' holds .*; expected numbers, dates, yes or no, or words"):
        column_of(table, "odd", "t")


def test_a_table_in_gzip_is_read_by_its_own_separator(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a;b\n1,5;2\n"))
    read = read_table(tmp_path / "t.csv.gz")
    assert (numbers(read, "a"), numbers(read, "b")) == ([1.5], [2])


def test_a_gzip_that_unpacks_to_absurd_sizes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fewstep.storage.tables.UNPACKED", 2**20)
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10_000_000, 9))
    with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
        read_table(tmp_path / "t.csv")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(InputError, match="found a pipe or a device"):
        read_table(tmp_path / "t.csv")


RECORDS = pl.DataFrame({"unit": ["a", "b", "b"], "x": [1.5, None, -2.25], "n": [1, 2, 3]})


@pytest.mark.parametrize("suffix", [".arrow", ".feather", ".json", ".jsonl", ".ndjson", ".jsonl.gz", ".parquet"])
def test_a_table_reads_the_same_from_arrow_json_and_lines_of_json_as_from_csv(tmp_path, suffix):
    buffer = io.BytesIO()
    write = {".arrow": "ipc", ".feather": "ipc", ".json": "json", ".parquet": "parquet"}.get(suffix, "ndjson")
    getattr(RECORDS, f"write_{write}")(buffer)
    content = buffer.getvalue()
    (tmp_path / f"t{suffix}").write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    RECORDS.write_csv(tmp_path / "t.csv")
    assert read_table(tmp_path / f"t{suffix}").equals(read_table(tmp_path / "t.csv"))
    assert read_table(tmp_path / f"t{suffix}", ["x"]).columns == ["x"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", ", " | "])
def test_encodings_separators_and_blanks_in_the_header_do_not_change_a_table(tmp_path, encoding, separator):
    lines = [("unit", "größe", "n"), ("Höhe", "1.5", "2"), ("Łódź", "-0.25", "3")]
    (tmp_path / "t.csv").write_bytes("\n".join(map(separator.join, lines)).encode(encoding))
    read = read_table(tmp_path / "t.csv", ["größe", "unit", "n"])
    assert dict(read.to_dict(as_series=False)) == {"unit": ["Höhe", "Łódź"], "größe": [1.5, -0.25], "n": [2, 3]}


def test_lines_of_comments_above_the_header_are_left_out_and_a_header_that_begins_with_a_hash_is_none(tmp_path):
    sound = "unit,x\na,1\n#b,2\n"
    plain = read_table(written(tmp_path / "t.csv", sound))
    assert plain["unit"].to_list() == ["a", "#b"]
    for above in ("# made by hand\n", "# a, b, c\n#\n", "#x=1\n\n# y\n"):
        assert read_table(written(tmp_path / "t.csv", above + sound)).equals(plain)
    assert read_table(written(tmp_path / "t.csv", "#,x\n1,2\n")).columns == ["#", "x"]
    assert read_table(written(tmp_path / "t.csv", "# by hand\n# unit,x\na,2\n")).columns == ["# unit", "x"]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json", "parquet", "ipc"])
def test_a_table_is_read_from_standard_input(monkeypatch, kind):
    buffer = io.BytesIO()
    getattr(RECORDS, f"write_{kind}")(buffer)
    buffer.seek(0)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(buffer))
    assert read_table("-").equals(RECORDS)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.xlsx", b"PK\x03\x04 a zip", ["spreadsheet", "Export it as CSV", "pip install fastexcel"]),
        ("t.db", b"SQLite format 3\x00" + bytes(90), ["database", "sqlite3 -header -csv"]),
        ("t.csv", b"SQLite format 3\x00" + bytes(90), ["database"]),
        ("t.feather", b"FEA1" + bytes(20), ["version 1"]),
        ("t.csv", b"unit,x\nb,1\nZ\xfcrich,2\n", ["no text in UTF-8", "byte 0xFC in line 3", "iconv"]),
        ("t.csv", "unit,x\nb,1\n".encode("utf-16-le"), ["no text in UTF-8"]),
        ("t.csv", b'# made\nunit,x\n"a,b",1\nb,1,5\n', ["has 3 values, the header has 2"]),
        ("t.json", b'{"unit": ["a"], "x": 3', ["list of records"]),
    ],
)
def test_a_file_of_another_kind_is_refused_with_its_remedy(tmp_path, name, content, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    (tmp_path / name).write_bytes(content)
    refused(lambda: read_table(tmp_path / name), name, *words)


@pytest.mark.parametrize("address", ["https://example.org/t.csv", "http://example.org/t.csv?a=*", "s3://bucket/t.parquet"])
def test_an_address_is_refused_and_nothing_is_downloaded(address):
    refused(lambda: read_table(address), address, "Download it first")


def test_labels_stay_text_as_it_is_written(tmp_path):
    path = written(tmp_path / "t.csv", "unit,code,x\n001,1.0,1.5\n1,1.50,2\n01,2,3.5\n")
    read = read_table(path, labels=["code"])
    assert read["unit"].to_list() == ["001", "1", "01"]
    assert read["code"].to_list() == ["1.0", "1.50", "2"]
    assert read["x"].to_list() == [1.5, 2.0, 3.5]
    whole = read_table(written(tmp_path / "t.csv", "unit,x\n10,1.5\n-2,1\n"))
    assert read_words(whole, "unit", "t").to_list() == ["10", "-2"]


@pytest.mark.parametrize("used", [["a", "y"], ["a"]])
def test_a_point_before_three_digits_parts_thousands_where_any_column_of_the_file_has_decimal_commas(tmp_path, used):
    values = range(950, 1150)
    rows = "".join(f"{value:,};{value / 1000:.3f}\n".replace(",", "_").replace(".", ",").replace("_", ".") for value in values)
    read = read_table(written(tmp_path / "t.csv", "a;y\n" + rows), used)
    assert numbers(read, "a") == list(values)


def test_a_word_among_numbers_is_named_with_the_file_and_row_that_it_is_in(tmp_path):
    table = read_table(units(tmp_path / "u", north="x\n1\n2\n", south="x\n3\nhigh\n4\n"))
    refused(lambda: numbers(table, "x"), "'high'", "data row 2 of 'south'")
    dated = read_table(units(tmp_path / "d", north="t\n2024-01-01\n2024-01-02\n", south="t\n2024-01-03\nlost\n"))
    refused(lambda: numbers(dated, "t"), "'lost'", "data row 2 of 'south'")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_command_writes_is_read_as_the_same_table(tmp_path, suffix):
    write_table(RECORDS, tmp_path / f"t{suffix}")
    assert read_table(tmp_path / f"t{suffix}").equals(RECORDS)
