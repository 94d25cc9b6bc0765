"""The log's copies for other programs. Place: fewstep/training/metrics.py and events.py, MetricsFile in log.py.

Oracles: published checksums, the protocol buffers library, pandas, and TensorBoard's own reader where it is installed.
"""

import json
import math
import random
import struct
from typing import Any

import pandas
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from fewstep.training.metrics import EVENTS, TABLE, crc32c, scalars_event
from fewstep.training.progress import MetricsFile, read_metrics


def record(step, **more):
    return {"meta_step": step, "meta_loss": 1 / step, "returns": [-step, step / 3], "accepted": step % 2 == 0, **more}


def event_file(folder):
    (found,) = folder.glob(f"{EVENTS}*")
    return found


def event_message() -> Any:
    """The protocol buffer `Event`, as far as scalars go, put together from its published fields."""
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    fields = {
        "Value": [("tag", 1, kinds.TYPE_STRING, ""), ("simple_value", 2, kinds.TYPE_FLOAT, "")],
        "Summary": [("value", 1, kinds.TYPE_MESSAGE, ".t.Value")],
        "Event": [
            ("wall_time", 1, kinds.TYPE_DOUBLE, ""),
            ("step", 2, kinds.TYPE_INT64, ""),
            ("file_version", 3, kinds.TYPE_STRING, ""),
            ("summary", 5, kinds.TYPE_MESSAGE, ".t.Summary"),
        ],
    }
    for name, parts in fields.items():
        message = file.message_type.add(name=name)
        for part, number, kind, of in parts:
            label = kinds.LABEL_REPEATED if part == "value" else kinds.LABEL_OPTIONAL
            message.field.add(name=part, number=number, type=kind, label=label, type_name=of or None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))


def read_events(path):
    """[(wall time, step, version, {name: value})], by a reader of its own; a record cut short ends it, as in TensorBoard."""
    content, place, kind, found = path.read_bytes(), 0, event_message(), []
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        body = content[place + 12 : place + 12 + length]
        if len(body) < length:
            break
        for part, at in ((content[place : place + 8], place + 8), (body, place + 12 + length)):
            turned = (struct.unpack_from("<I", content, at)[0] - 0xA282EAD8) % 2**32
            assert (turned >> 17 | turned << 15) % 2**32 == crc32c(part)
        event = kind.FromString(body)
        found.append(
            (event.wall_time, event.step, event.file_version, {value.tag: value.simple_value for value in event.summary.value})
        )
        place += 16 + length
    return found


def same(one, other):
    return one == pytest.approx(other, rel=1e-5, nan_ok=True)


def test_checksums_are_those_of_rfc_3720():
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E and crc32c(b"123456789") == 0xE3069283


def test_any_step_and_value_comes_back_through_protocol_buffers(tmp_path):
    draw = random.Random(0)
    for _ in range(200):
        step, time = draw.randrange(2 ** draw.randrange(1, 60)), draw.uniform(0, 2e9)
        values = {"x" * draw.randrange(1, 200): draw.uniform(-1e9, 1e9), "ü/0": draw.uniform(-1, 1)}
        (tmp_path / "events").write_bytes(scalars_event(time, step, values))
        ((seen_time, seen_step, version, seen),) = read_events(tmp_path / "events")
        assert (seen_time, seen_step, version) == (time, step, "") and same(seen, values)


def test_both_copies_hold_what_the_log_holds(tmp_path):
    log = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        more = {"validation": 0.5 * step} if step % 2 else {"warnings": ['a "loss", grown', "b"]}
        log.write(record(step, **more, seconds=10.0 * step))
        table = pandas.read_csv(tmp_path / TABLE)  # whole after every record
        assert len(table) == step and len(read_events(event_file(tmp_path))) == step + 1
    log.write(record(6, validation=math.inf, seconds=60.0))
    log.close()
    table: Any = pandas.read_csv(tmp_path / TABLE)
    assert table["meta_step"].tolist() == [1, 2, 3, 4, 5, 6] and table["returns/1"].tolist() == pytest.approx(
        [step / 3 for step in range(1, 7)], rel=1e-5
    )
    assert table["accepted"].tolist() == [False, True] * 3 and table["warnings/0"][1] == 'a "loss", grown'
    assert table["validation"].isna().tolist() == [False, True, False, True, False, True]
    first, *events = read_events(event_file(tmp_path))
    assert first[2] == "brain.Event:2" and [event[1] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event[0] - first[0] for event in events] == pytest.approx([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    assert same(
        events[2][3], {"meta_loss": 1 / 3, "returns/0": -3, "returns/1": 1, "accepted": 0, "validation": 1.5, "seconds": 30}
    )
    assert math.isnan(events[5][3]["validation"]) and "warnings/0" not in events[1][3]


def test_a_run_that_goes_on_neither_doubles_nor_loses_a_point(tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for folder in (whole, parted):
        folder.mkdir()
    log = MetricsFile(whole / "metrics.jsonl")
    for step in range(1, 9):
        log.write(record(step, seconds=float(step)))
    log.close()
    log = MetricsFile(parted / "metrics.jsonl")
    position = 0
    for step in range(1, 6):
        log.write(record(step, seconds=float(step)))
        position = log.position if step == 3 else position
    log.close()
    path = event_file(parted)
    path.rename(parted / event_file(whole).name)  # as if both had begun in the same second
    with event_file(parted).open("ab") as file:
        file.write(b"\x30\x00half a record")  # as after a crash
    with (parted / TABLE).open("a") as file:
        file.write("9,0.1")
    assert len(read_events(event_file(parted))) == 6  # a reader is not disturbed by it
    log = MetricsFile(parted / "metrics.jsonl", position)
    assert [event[1] for event in read_events(event_file(parted))] == [0, 1, 2, 3]
    for step in range(4, 9):
        log.write(record(step, seconds=float(step)))
    log.close()
    for name in ("metrics.jsonl", TABLE, event_file(whole).name):
        assert (parted / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_that_goes_back_takes_its_copies_along(tmp_path):
    log = MetricsFile(tmp_path / "metrics.jsonl")
    log.write(record(1))
    position = log.position
    log.write(record(2, dropped_tasks=4))
    log.back(position)
    assert list(pandas.read_csv(tmp_path / TABLE)) == ["meta_step", "meta_loss", "returns/0", "returns/1", "accepted"]
    log.write(record(3))
    log.close()
    assert pandas.read_csv(tmp_path / TABLE)["meta_step"].tolist() == [1, 3]
    assert [event[1] for event in read_events(event_file(tmp_path))] == [0, 1, 3]


def test_a_run_whose_log_is_older_than_its_copies_gets_them_whole(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record(step)) + "\n" for step in (1, 2)))
    MetricsFile(tmp_path / "metrics.jsonl").close()
    assert pandas.read_csv(tmp_path / TABLE)["meta_step"].tolist() == [1, 2]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2 and len(read_events(event_file(tmp_path))) == 3


def test_tensorboard_reads_what_was_logged(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (10, 20, 300):
        log.write(record(step, seconds=float(step)))
    log.close()
    found = accumulator.EventAccumulator(str(tmp_path))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"meta_loss", "returns/0", "returns/1", "accepted", "seconds"}
    assert [(event.step, event.value) for event in found.Scalars("returns/0")] == [(10, -10.0), (20, -20.0), (300, -300.0)]
