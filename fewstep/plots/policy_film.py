"""Policies side by side, as a moving picture (floor 4): what each does in one task, and what it brings. Used by `fewstep play`.

A panel brings its own pictures: `points` draws 2D navigation, `robots` what MuJoCo shows; an environment may render its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewstep.plots.film import BACK, FRAMES_A_SECOND, GAP, HEAD, INK, LINE, PALE, Painter, write_frames

FOOT = 40
"""pixels under a picture"""
SIDE, REACH = 260, 0.85
"""of the picture of a plane: pixels, and how far it is seen from its middle"""
GOAL = "#228833"
LINGER = 1500
"""milliseconds for which the end is looked at"""


class Panel(NamedTuple):
    """A trajectory as it is shown."""

    title: str
    picture: Callable[[int], Image.Image]
    """step -> how it stands after so many steps, from 0 to all; the same size at every step"""
    returned: np.ndarray
    """[steps], so far"""
    ended: str
    """what is said once it is over: "there", "fell", or nothing where it was cut off at the horizon"""
    told: str
    """what stands under it"""
    now: Callable[[int], str] = lambda step: ""
    """what else is said of a step"""


def policy_film(panels: Sequence[Panel], seconds: float, out: Path) -> None:
    """Writes the panels side by side to `out` (.gif or .webp); a step takes so many `seconds`."""
    every = max(1, round(1 / (FRAMES_A_SECOND * seconds)))
    steps = max(len(panel.returned) for panel in panels)
    shown = [*range(0, steps, every), steps]
    write_frames([sheet(panels, step) for step in shown], round(1000 * every * seconds), out, LINGER)


def sheet(panels: Sequence[Panel], step: int) -> Image.Image:
    """All panels after so many steps."""
    drawn = [panel.picture(min(step, len(panel.returned))) for panel in panels]
    width, height = drawn[0].size
    page = Image.new("RGB", (len(panels) * (width + GAP) - GAP, HEAD + height + FOOT), BACK)
    draw, text, small = ImageDraw.Draw(page), ImageFont.load_default(15), ImageFont.load_default(12)
    for place, (panel, picture) in enumerate(zip(panels, drawn, strict=True)):
        left, low = place * (width + GAP), HEAD + height
        page.paste(picture, (left, HEAD))
        taken, over = min(step, len(panel.returned)), step >= len(panel.returned)
        draw.text((left + 4, 4), panel.title, INK, text)
        draw.text((left + width - 4, 6), panel.now(taken), PALE, small, anchor="ra")
        brought = panel.returned[taken - 1] if taken else 0.0
        draw.text((left + 4, low + 4), f"return {brought:.1f}" + f"  {panel.ended}" * over, LINE, small)
        draw.text((left + width - 4, low + 4), f"step {taken}", PALE, small, anchor="ra")
        draw.text((left + 4, low + 21), panel.told, INK, small)
    return page


def points(places: np.ndarray, goal: np.ndarray) -> Callable[[int], Image.Image]:
    """Pictures of a point that moves in a plane: its way so far in `places` [steps + 1, 2], and the goal [2]."""
    fine = 3  # drawn so many times larger: lines of PIL have no soft edges

    def at(place: np.ndarray) -> tuple[float, float]:
        across, up = np.clip(place, -REACH, REACH) / REACH
        return (1 + across) / 2 * (SIDE * fine - 1), (1 - up) / 2 * (SIDE * fine - 1)

    def picture(step: int) -> Image.Image:
        image = Image.new("RGB", (SIDE * fine, SIDE * fine), BACK)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, SIDE * fine - 1, SIDE * fine - 1), outline=PALE, width=fine)
        way = [at(place) for place in places[: step + 1]]
        if len(way) > 1:
            draw.line(way, LINE, fine, joint="curve")
        _star(draw, at(goal), 13 * fine)
        for place, radius, color in ((way[0], 3, PALE), (way[-1], 5, LINE)):
            draw.circle(place, radius * fine, color)
        return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)

    return picture


def robots(model: Any, states: Sequence[np.ndarray]) -> Callable[[int], Image.Image]:
    """Pictures of a robot's `states`, [steps + 1] of MuJoCo's full ones. Raises `NoRenderer`."""
    painter = Painter(model)
    return lambda step: painter.picture(model, states[step])


def _star(draw: ImageDraw.ImageDraw, middle: tuple[float, float], size: float) -> None:
    turns = np.pi * (np.arange(10) / 5 - 0.5)
    far = np.where(np.arange(10) % 2 == 0, size, 0.4 * size)
    points = [(middle[0] + r * np.cos(turn), middle[1] + r * np.sin(turn)) for r, turn in zip(far, turns, strict=True)]
    draw.polygon(points, GOAL, BACK, 2)
