"""Figures and animations of policies: returns over training, returns after each update, paths.

In an animation, each panel brings its own frames: `points` draws 2D navigation, `robots` renders MuJoCo; an environment may
render itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewstep.plots.style import BEFORE, NOTE, STEPS, TRAINED, axes_of, error_bars
from fewstep.simulators.film import BACK, FRAMES_A_SECOND, GAP, HEAD, INK, LINE, PALE, Painter, write_frames

AFTER = [BEFORE, STEPS[0], STEPS[2], STEPS[4]]
"""colors, by updates"""


def returns(contents: dict[str, Any]) -> Any:
    """Returns on validation tasks after 0, 1, … updates, over the environment steps of the training."""
    records = contents["records"]
    if not records:
        return None
    figure, axes = axes_of(1, 1, (7.0, 4.2))
    axis, taken = axes[0, 0], [record["environment_steps"] / 1e6 for record in records]
    for update in reversed(range(len(records[0]["validation_returns"]))):
        values = [record["validation_returns"][update] for record in records]
        axis.plot(taken, values, color=color_of(update), lw=1.4, label=f"after {updates_in_words(update)}")
    best = min(records, key=lambda record: record["validation"])
    axis.axvline(best["environment_steps"] / 1e6, color=NOTE, lw=1, ls="--", zorder=0)
    options = {"transform": axis.get_xaxis_transform(), "va": "bottom", "fontsize": 8, "color": NOTE}
    axis.text(best["environment_steps"] / 1e6, 0.02, "kept ", ha="right", **options)
    axis.set(xlabel="environment steps, millions", ylabel="mean return on validation tasks")
    axis.legend(frameon=False, fontsize=9, loc="center right")
    return figure


def after_updates(contents: dict[str, Any]) -> Any:
    """Mean return on test tasks after 0, 1, … updates, with its interval over tasks."""
    result = contents["result"]
    if not result:
        return None
    figure, axes = axes_of()
    axis, bars = axes[0, 0], error_bars([0.0] * len(result["mean"]), result["ci95"])
    axis.errorbar(result["steps"], result["mean"], yerr=bars, color=TRAINED, marker="o", capsize=4, lw=1.4)
    for step, mean in zip(result["steps"], result["mean"], strict=True):
        axis.annotate(f"{mean:.3g}", (step, mean), textcoords="offset points", xytext=(8, -14), fontsize=9)
    axis.set_xticks(result["steps"])
    axis.margins(x=0.14, y=0.15)
    title = f"{result['tasks']} unseen tasks, {result['protocol']['test_rollouts']} trajectories for each update"
    axis.set(xlabel="updates (adaptation steps)", ylabel="mean return, 95 % interval over tasks", title=title)
    return figure


def ways(contents: dict[str, Any]) -> Any:
    """A row for each of a few unseen tasks: where trajectories led before and after each update, and the goal."""
    shown = contents["shown"]
    if not shown or shown.get("kind") != "ways":
        return None
    tasks = shown["tasks"]
    columns = len(tasks[0]["ways"])
    figure, axes = axes_of(columns, len(tasks), (2.3 * columns + 0.4, 2.35 * len(tasks) + 0.4))
    for row, task in zip(axes, tasks, strict=True):
        for update, (axis, paths) in enumerate(zip(row, task["ways"], strict=True)):
            for path in paths:
                x, y = zip(*path, strict=True)
                axis.plot(x, y, color=color_of(update), lw=0.8, alpha=0.8)
                axis.plot(x[-1], y[-1], ".", color=color_of(update), ms=4)
            axis.plot(0, 0, "o", color=NOTE, ms=3)
            axis.plot(*task["goal"], "*", color="#228833", ms=11, mec="white", zorder=3)
            axis.set(xlim=(-0.85, 0.85), ylim=(-0.85, 0.85), xticks=[], yticks=[], aspect="equal")
            axis.spines[["top", "right"]].set_visible(True)
            axis.set_title(f"after {updates_in_words(update)}: {task['returns'][update]:.1f}", fontsize=8)
    figure.suptitle(f"{len(tasks)} unseen goals (stars): trajectories and their mean return", fontsize=11)
    return figure


def color_of(update: int) -> str:
    return AFTER[min(update, len(AFTER) - 1)]


def updates_in_words(update: int) -> str:
    return f"{update} update{'s' * (update != 1)}"


FIGURES = {"returns": returns, "updates": after_updates, "ways": ways}
"""those of a policy's run, in place of the others"""


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
