"""Renders robots side by side as an animation: motion, return and model error. MuJoCo renders the frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewstep.simulators.mujoco import import_mujoco
from fewstep.storage.arrays import atomic_write

WIDTH, HEIGHT, CURVE, HEAD, GAP = 320, 220, 78, 26, 8
"""pixels of a robot's picture, of the curve below it, of the title above it, and between two"""
FRAMES_A_SECOND = 10
BACK, INK, PALE, ALARM, LINE = "#ffffff", "#222222", "#999999", "#cc3311", "#332288"
SKY = 226, 233, 240


class NoRenderer(Exception):
    """Nothing here can draw a robot; the message says why."""


class Scene(NamedTuple):
    """A run as it is shown; arrays lead with [steps]."""

    title: str
    models: Callable[[int], Any]
    """step -> the robot at that step"""
    states: np.ndarray
    """[steps + 1, state], fewer where the robot ran away"""
    returned: np.ndarray
    """so far"""
    errors: np.ndarray
    strikes: int | None
    """the step at which a fault strikes"""


def write_film(scenes: Sequence[Scene], seconds: float, out: Path) -> None:
    """Writes the scenes side by side to `out` (.gif or .webp); a step takes so many `seconds`. Raises `NoRenderer`."""
    every = max(1, round(1 / (FRAMES_A_SECOND * seconds)))
    write_frames(list(pictures(scenes, seconds, every)), round(1000 * every * seconds), out)


def write_frames(frames: Sequence[Image.Image], duration: int, out: Path, last: int = 0) -> None:
    """Writes a moving picture whole or not at all: each frame for so many milliseconds, and the last one for `last` more."""
    if out.suffix.lower() == ".gif":
        colors = frames[len(frames) // 2].quantize(256)  # one palette, so that colors do not flicker
        frames = [frame.quantize(palette=colors, dither=Image.Dither.NONE) for frame in frames]
    lasting = [duration] * (len(frames) - 1) + [duration + last]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": lasting, "loop": 0, "quality": 70}
    with atomic_write(out) as partial:
        frames[0].save(partial, out.suffix[1:].upper(), **moving)


def pictures(scenes: Sequence[Scene], seconds: float, every: int) -> Iterator[Image.Image]:
    """Every so many steps, a picture of all scenes."""
    steps = max(len(scene.returned) for scene in scenes)
    painters = [Painter(scene.models(0)) for scene in scenes]
    worst = np.nanpercentile(np.concatenate([scene.errors for scene in scenes]), 98) * 1.2
    size = len(scenes) * (WIDTH + GAP) - GAP, HEAD + HEIGHT + CURVE
    for step in range(0, steps, every):
        sheet = Image.new("RGB", size, BACK)
        for place, (scene, painter) in enumerate(zip(scenes, painters, strict=True)):
            left = place * (WIDTH + GAP)
            sheet.paste(painter.picture(scene.models(step), scene.states[min(step + 1, len(scene.states) - 1)]), (left, HEAD))
            caption(ImageDraw.Draw(sheet), left, scene, step, seconds, worst)
        yield sheet


def caption(draw: ImageDraw.ImageDraw, left: int, scene: Scene, step: int, seconds: float, worst: float) -> None:
    """What is written over and under a robot."""
    text, small = ImageFont.load_default(15), ImageFont.load_default(12)
    struck = scene.strikes is not None and step >= scene.strikes
    draw.text((left + 4, 4), scene.title, ALARM if struck else INK, text)
    draw.text((left + WIDTH - 4, 6), f"{(step + 1) * seconds:.1f} s", PALE, small, anchor="ra")
    if struck:
        draw.rectangle((left, HEAD, left + WIDTH - 1, HEAD + HEIGHT - 1), outline=ALARM, width=3)
    top, low = HEAD + HEIGHT + 22, HEAD + HEIGHT + CURVE - 4
    draw.text((left + 4, HEAD + HEIGHT + 4), f"return {scene.returned[step]:.1f}", INK, small)
    error = scene.errors[step]
    told = f"model error {error:.2f}" if np.isfinite(error) else "ran away"
    draw.text((left + WIDTH - 4, HEAD + HEIGHT + 4), told, LINE, small, anchor="ra")
    x = lambda step: left + 4 + (WIDTH - 8) * step / max(1, len(scene.errors) - 1)  # noqa: E731
    if scene.strikes is not None:
        draw.line((x(scene.strikes), top, x(scene.strikes), low), ALARM)
    draw.line((left + 4, low, left + WIDTH - 4, low), PALE)
    draw.text((left + WIDTH - 4, top - 2), f"{worst:.2g}", PALE, ImageFont.load_default(10), anchor="ra")
    shown = scene.errors[: step + 1]
    known = [
        (x(number), low - (low - top) * min(1.0, value / worst)) for number, value in enumerate(shown) if np.isfinite(value)
    ]
    if len(known) > 1:
        draw.line(known, LINE, 2)


class Painter:
    """Draws the states of robots of one shape, from the side, moving along."""

    def __init__(self, model: Any):
        self.mujoco = mujoco = import_mujoco()
        try:
            self.renderer = mujoco.Renderer(model, HEIGHT, WIDTH)
        except Exception as error:  # of many kinds, by what is missing
            raise NoRenderer(" ".join(str(error).split()) or type(error).__name__) from error
        # Without shadows: those of software renderers fall as black sheets over the ground where there is no body.
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        # A file of one's own may have no light: the camera carries one, bright enough by itself.
        for light, least in ((model.vis.headlight.ambient, 0.35), (model.vis.headlight.diffuse, 0.6)):
            light[:] = np.maximum(light, least)
        self.data, self.camera = mujoco.MjData(model), mujoco.MjvCamera()
        self.camera.type, self.camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, min(1, model.nbody - 1)
        mujoco.mj_forward(model, self.data)
        reach = np.linalg.norm(self.data.geom_xpos - self.data.xpos[self.camera.trackbodyid], axis=1) + model.geom_rbound
        around = np.max(reach[model.geom_rbound > 0], initial=0.1)  # the ground has no bound
        self.camera.distance, self.camera.azimuth, self.camera.elevation = 3.2 * float(around), 90, -12

    def picture(self, model: Any, state: np.ndarray) -> Image.Image:
        mujoco = self.mujoco
        mujoco.mj_setState(model, self.data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        mujoco.mj_forward(model, self.data)
        self.renderer.update_scene(self.data, self.camera)
        pixels = self.renderer.render()
        pixels[(pixels == 0).all(2)] = SKY  # where the robot's file has none, nothing is drawn
        return Image.fromarray(pixels)
