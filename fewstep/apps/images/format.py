"""How images become inputs and classes become targets: all that is needed to open a trained model without its data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from fewstep.apps.images.tasks import Normalization
from fewstep.storage.json import LARGEST, validate


class ImageFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """Size and colors of the images that a network sees."""

    size: Annotated[int, Meta(ge=1, le=LARGEST - 1)]
    """height and width"""
    channels: Literal[1, 3]
    pixels: Normalization
    classes: tuple[str, ...] = ("classes",)
    """that there are classes; which ones, each task says for itself"""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, self.channels

    def to_json(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)

    @staticmethod
    def from_json(saved: Any) -> ImageFormat:
        """Raises `ValueError`, with the place in the JSON, if it is damaged."""
        format = validate(saved, ImageFormat, "the format")
        if {len(format.pixels.mean), len(format.pixels.deviation)} != {format.channels}:
            raise ValueError(f"the format: expected a mean and a deviation of {format.channels} colors")
        return format
