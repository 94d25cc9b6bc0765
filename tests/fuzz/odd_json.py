"""Damage to saved files: JSON with parts removed or of another kind, files cut or replaced. Used by test_fuzz_saved.py."""

import json
import math
import random

OTHERS = {
    "null": None,
    "a word": "x",
    "no word": "",
    "a long word": "x" * 10_000,
    "zero": 0,
    "minus one": -1,
    "a fraction": 0.5,
    "a huge number": 10**30,
    "a number beyond all": 10**400,
    "infinity": math.inf,
    "no number": math.nan,
    "true": True,
    "an empty list": [],
    "an empty object": {},
    "a list of lists": [[[]]],
    "a list of words": ["x", "y"],
    "a list of nulls": [None, None],
    "an object": {"x": 1},
    "a path outside": "../../x",
    "odd letters": "\x1b[31m\x00é😀\udcff",
}


def places(content, above=()):
    """The path of every part of some JSON; of a long list the first and the last."""
    yield above
    if isinstance(content, dict):
        for name in content:
            yield from places(content[name], (*above, name))
    elif isinstance(content, list):
        for number in sorted({0, len(content) - 1} if content else ()):
            yield from places(content[number], (*above, number))


def removed(content, place):
    return altered(content, place, lambda part, name: part.pop(name))


def replaced(content, place, value):
    return altered(content, place, lambda part, name: part.__setitem__(name, value)) if place else value


def altered(content, place, change):
    copy = json.loads(json.dumps(content))
    part = copy
    for name in place[:-1]:
        part = part[name]
    change(part, place[-1])
    return copy


def parts_damaged(content):
    """(name, text) for every part of some JSON removed, and replaced by each of OTHERS."""
    for place in places(content):
        named = ".".join(map(str, place)) or "all of it"
        if place:
            yield f"without {named}", json.dumps(removed(content, place))
        for kind, value in OTHERS.items():
            yield f"{named} is {kind}", json.dumps(replaced(content, place, value))
    yield "another part", json.dumps({**content, "warp": 9})
    yield "deeply nested", json.dumps({**content, "more": 1}).replace("1}", "[" * 90_000 + "]" * 90_000 + "}")
    yield "an object a thousand deep", '{"settings":' * 1000 + "1" + "}" * 1000


def files_damaged(content: bytes):
    """(name, bytes) of a file that was cut, emptied, changed or written over."""
    for size in (0, 1, len(content) // 3, len(content) // 2, len(content) - 2):
        yield f"its first {size} bytes", content[:size]
    draw = random.Random(0)
    for number in range(12):
        damaged = bytearray(content)
        for _ in range(1 + 2 * number):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        yield f"damage {number}", bytes(damaged)
    yield "text", b"this is text\n"
    yield "NULs", b"\x00" * max(len(content), 9)
    yield "no utf-8", b'{"a": "\xff"}'
    yield "a byte order mark", b"\xef\xbb\xbf" + content
    yield "in utf-16", content.decode("latin-1").encode("utf-16")
    yield "twice", content + content
    yield "a pickle", b"cposix\nsystem\n(S'touch owned'\ntR."
    yield "a git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
