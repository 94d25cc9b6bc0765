"""JSON that anyone may have changed is checked, and the message names the place. Place: fewstep/plain.py."""

from dataclasses import dataclass
from typing import Literal, TypedDict

import pytest

from fewstep.storage.json import Positive, is_valid, read_json, validate


class Content(TypedDict):
    scale: Positive
    sizes: tuple[int, ...]


@dataclass
class Shape:
    size: int


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"scale": 0, "sizes": []}', r"Expected `float` > 0.0 - at `\$\.scale`"),
        ('{"scale": 1, "sizes": [1, 2.0]}', r"Expected `int`, got `float` - at `\$\.sizes\[1\]`"),
        ('{"scale": 1, "sizes": [true]}', r"Expected `int`, got `bool` - at `\$\.sizes\[0\]`"),
        ('{"scale": 1}', "missing required field `sizes`"),
        ('{"scale": NaN, "sizes": []}', "NaN is no number"),
        ('{"scale": 1e999, "sizes": []}', "1e999 is no number"),
        ('{"scale": 1, "sizes": [9223372036854775808]}', "integers of 64 bits"),
        ("[" * 100_000, "nested too deeply"),
        ("", "Expecting value"),
        ("{'scale': 1}", "Expecting property name"),
    ],
)
def test_damaged_content_is_refused_with_its_place(tmp_path, text, told):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_json(tmp_path / "file.json", Content)


def test_content_that_fits_is_read_as_it_stands_and_a_folder_is_no_file(tmp_path):
    (tmp_path / "file.json").write_text('{"scale": 2, "sizes": [1], "more": null}')
    assert read_json(tmp_path / "file.json", Content) == {"scale": 2, "sizes": [1], "more": None}
    with pytest.raises(ValueError, match="expected a file"):
        read_json(tmp_path)


def test_values_are_of_the_type_or_are_not():
    assert validate([1, 2], tuple[int, ...]) == (1, 2)
    assert validate({"size": 3}, Shape) == Shape(3)
    assert is_valid("auto", int | Literal["auto"]) and not is_valid("all", int | Literal["auto"])
    assert is_valid(10**30, float) and not is_valid(10**30, int)
    assert not is_valid(float("nan"), float) and not is_valid([1.0, float("inf")], tuple[float, ...])
    with pytest.raises(ValueError, match="shape: unknown 'warp'"):
        validate({"size": 3, "warp": 1}, Shape, "shape")
