"""How images become inputs and classes become targets (floor 1): all that it takes to open a trained model without its data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fewstep.plain import require_a
from fewstep.tasks.images import Pixels


@dataclass(frozen=True)
class ImageFormat:
    """Size and colors of the images that a network sees."""

    size: int
    """height and width"""
    channels: int
    pixels: Pixels
    classes: tuple[str, ...] = ("classes",)
    """that there are classes; which ones, each task says for itself"""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, self.channels

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "pixels": self.pixels._asdict()}

    @staticmethod
    def from_json(saved: dict[str, Any]) -> ImageFormat:
        """Raises many kinds of errors where it is damaged."""
        require_a(saved["size"], int, "size")
        require_a(saved["channels"], Literal[1, 3], "channels")
        for name in Pixels._fields:
            require_a(saved["pixels"][name], tuple[float, ...], name)
        mean, deviation = (saved["pixels"][name] for name in Pixels._fields)
        if saved["size"] < 1 or {len(mean), len(deviation)} != {saved["channels"]} or min(deviation) <= 0:
            raise ValueError("a size or deviations that are not positive, or colors of another number of channels")
        return ImageFormat(saved["size"], saved["channels"], Pixels(*(tuple(saved["pixels"][name]) for name in Pixels._fields)))
