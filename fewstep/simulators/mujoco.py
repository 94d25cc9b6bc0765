"""Robots in MuJoCo: model files, observations and control frequency.

MuJoCo belongs to the extra `[rl]` and is imported when it is needed.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.errors import InputError

DIVERGENCE_LIMIT = 1e4
"""An observation beyond it has run away: the simulation is not stable there."""
RESET_NOISE = 0.1
"""of where a run begins, around the pose that the file has: positions evenly, velocities normally, as gymnasium has it"""
CONTROL_SECONDS = 0.05
"""A command holds for about so long, where a user's own robot does not say otherwise."""
TIMESTEPS = (1e-5, 1.0)
"""seconds of a step of the simulation: of shorter ones, one step of control would take too many"""
LARGEST_COMMAND = 1e9
"""No motor takes a larger command; beyond float32 there is none to draw."""
GYMNASIUM_FILES = {"half-cheetah": "half_cheetah.xml", "ant": "ant.xml"}
"""the robots that come with gymnasium"""


JOINTS = {
    "free": ((" x", " y", " z", " qw", " qx", " qy", " qz"), (" x", " y", " z", " turn x", " turn y", " turn z")),
    "ball": ((" qw", " qx", " qy", " qz"), (" turn x", " turn y", " turn z")),
    "slide": (("",), ("",)),
    "hinge": (("",), ("",)),
}
"""what is appended to a joint's name for each of its positions, and of its velocities"""


@dataclass(frozen=True)
class Robot:
    """A robot by its name or its MJCF file. Raises `InputError` if there is none, or MuJoCo cannot read it."""

    name: str

    @cached_property
    def path(self) -> Path:
        if self.name in GYMNASIUM_FILES:
            import gymnasium

            return Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / GYMNASIUM_FILES[self.name]
        path = Path(self.name)
        if not path.is_file():
            near = difflib.get_close_matches(self.name, GYMNASIUM_FILES, n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise InputError(
                f"--robot {self.name}: expected {', '.join(GYMNASIUM_FILES)}, or an MJCF file, found none of them.{meant}"
            )
        return path

    @cached_property
    def model(self) -> Any:
        """The `mujoco.MjModel`; what MuJoCo has to say of its file is in `notes`."""
        return self._loaded[0]

    @property
    def notes(self) -> tuple[str, ...]:
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[Any, tuple[str, ...]]:
        mujoco = import_mujoco()
        try:
            with capture_warnings(mujoco) as messages:
                model = mujoco.MjModel.from_xml_path(str(self.path))
            model.names.decode("utf-8")  # MuJoCo takes any bytes for a name
        except (ValueError, RuntimeError, mujoco.FatalError) as error:
            problem = " ".join(str(error).split())
            raise InputError(f"{self.path}: expected a robot in MJCF, but MuJoCo cannot read it: {problem}") from error
        self._check_usable(model)
        # Numbers that run away shall be seen as such: MuJoCo would put the robot back to where it began, amid a run.
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        # A user cannot change gymnasium's files, so warnings about them are left out.
        return model, () if self.name in GYMNASIUM_FILES else tuple(dict.fromkeys(messages))

    def _check_usable(self, model: Any) -> None:
        """Raises `InputError` if MuJoCo takes the file, but it is no robot that can be driven."""
        if model.nu == 0:
            raise InputError(f"{self.path}: expected a robot with actuators, found none. Add an <actuator> for each motor.")
        if model.njnt == 0:
            raise InputError(f"{self.path}: expected a robot with joints, found none, so nothing can move. Add a <joint>.")
        least, most = TIMESTEPS
        if not least <= model.opt.timestep <= most:
            got = f"{model.opt.timestep:g}"
            raise InputError(f"{self.path}: expected a timestep from {least:g} to {most:g} s, got {got}. Change its <option>.")
        ranges = np.where(model.actuator_ctrllimited[:, None], model.actuator_ctrlrange, 0.0)
        if not (np.abs(ranges) <= LARGEST_COMMAND).all():
            number = int(np.argmin((np.abs(ranges) <= LARGEST_COMMAND).all(1)))
            name, got = model.actuator(number).name or f"actuator {number + 1}", ranges[number].tolist()
            raise InputError(f"{self.path}: {name}: expected a ctrlrange within ±{LARGEST_COMMAND:g}, got {got}.")

    @cached_property
    def substeps(self) -> int:
        """Steps of the simulation in one of control."""
        return max(1, round(CONTROL_SECONDS / self.model.opt.timestep))

    @property
    def seconds(self) -> float:
        """Of one step of control."""
        return self.substeps * float(self.model.opt.timestep)

    @cached_property
    def world_coordinates(self) -> int:
        """How many of the first positions say where the robot is in its world, which changes nothing: they are not observed.
        x and y of a body that is free, or the slides along x and y that the robot's root is on."""
        mujoco, model = import_mujoco(), self.model
        if model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE:
            return 2
        slides = 0
        while (
            slides < min(model.njnt, 2)
            and model.jnt_type[slides] == mujoco.mjtJoint.mjJNT_SLIDE
            and model.jnt_bodyid[slides] == model.jnt_bodyid[0]
            and abs(model.jnt_axis[slides][2]) < 0.5
        ):
            slides += 1
        return slides

    @property
    def observation_size(self) -> int:
        """Numbers of an observation: positions without `world_coordinates`, then velocities."""
        return int(self.model.nq + self.model.nv - self.world_coordinates)

    @property
    def action_size(self) -> int:
        """Numbers of an action, one for each actuator."""
        return int(self.model.nu)

    @cached_property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """(least, most) of each actuator's command; −1 and 1 where its file sets no limit."""
        limited = self.model.actuator_ctrllimited.astype(bool)
        least, most = (np.where(limited, self.model.actuator_ctrlrange[:, end], (-1.0, 1.0)[end]) for end in (0, 1))
        return least.astype(np.float32), most.astype(np.float32)

    @cached_property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What people call the numbers of an observation and those of an action, after the model's joints and actuators."""
        model, positions, velocities = self.model, [], []
        mujoco = import_mujoco()
        for number in range(model.njnt):
            name = model.joint(number).name or f"joint {number + 1}"
            axes = JOINTS[mujoco.mjtJoint(model.jnt_type[number]).name.removeprefix("mjJNT_").lower()]
            positions += [f"{name}{axis}" for axis in axes[0]]
            velocities += [f"{name}{axis} velocity" for axis in axes[1]]
        actuators = (model.actuator(number).name or f"actuator {number + 1}" for number in range(model.nu))
        return (*positions[self.world_coordinates :], *velocities), tuple(f"{name} command" for name in actuators)

    def observation(self, states: np.ndarray) -> np.ndarray:
        """float32 [..., observed] of MuJoCo's full states [..., 1 + positions + velocities + activations]: without the time."""
        end = 1 + self.model.nq + self.model.nv
        with np.errstate(over="ignore"):  # what runs away becomes infinite, and is seen as such
            return states[..., 1 + self.world_coordinates : end].astype(np.float32)


@contextmanager
def capture_warnings(mujoco: Any) -> Iterator[list[str]]:
    """What MuJoCo warns of meanwhile, which it would else write to MUJOCO_LOG.TXT in the user's folder."""
    messages: list[str] = []
    mujoco.set_mju_user_warning(messages.append)
    try:
        yield messages
    finally:
        mujoco.set_mju_user_warning(None)


def import_mujoco() -> Any:
    """The module. Raises `InputError` with the line that installs it."""
    if find_spec("mujoco") is None or find_spec("gymnasium") is None:
        raise InputError("Robots need MuJoCo, which is not installed. Try: pip install 'fewstep[rl]'")
    # Read when MuJoCo is imported: without a screen it draws by EGL, where that is there.
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and find_library("EGL"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco
    except Exception as error:  # of many kinds, by which of its libraries is missing
        chosen = os.environ.get("MUJOCO_GL")
        because = f" with MUJOCO_GL={chosen}" if chosen else ""
        raise InputError(
            f"MuJoCo cannot be loaded{because} ({' '.join(str(error).split())}). MUJOCO_GL says what draws: egl, osmesa or "
            "glfw where its library is installed, disable for no pictures."
        ) from error
    return mujoco


def initial_states(robot: Robot, random: np.random.Generator, count: int) -> np.ndarray:
    """float64 [count, state]: full states in which runs begin."""
    mujoco, model = import_mujoco(), robot.model
    kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
    states = np.zeros((count, mujoco.mj_stateSize(model, kind)))
    data = mujoco.MjData(model)
    mujoco.mj_getState(model, data, states[0], kind)
    states[:] = states[0]
    states[:, 1 : 1 + model.nq] += random.uniform(-RESET_NOISE, RESET_NOISE, (count, model.nq))
    states[:, 1 + model.nq : 1 + model.nq + model.nv] += RESET_NOISE * random.standard_normal((count, model.nv))
    return states
