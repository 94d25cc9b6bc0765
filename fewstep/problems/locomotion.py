"""Half-cheetah and ant that are to run at a velocity or in a direction, as problems for policies (floor 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from fewstep.problems.simulated_settings import SimulatedSettings, as_published
from fewstep.rl.problem import PolicyProblem
from fewstep.tasks.locomotion import FAMILIES, locomotion, read_task


@dataclass(frozen=True, kw_only=True)
class Locomotion(SimulatedSettings):
    """A robot that is to run in a way it is not told."""

    family: ClassVar[str] = ""

    def build(self, seed: int = 0, format: Any = None) -> PolicyProblem:
        """The PolicyProblem; nothing is simulated. Raises `BadInput` where MuJoCo is not installed."""
        self.check(seed)
        family = FAMILIES[self.family]
        protocol: dict[str, Any] = {"robot": family.robot}
        if family.most is None:
            protocol["distinct_tasks"] = 2
        else:
            protocol["velocities"] = [0.0, family.most]
            protocol["held_out_velocities"] = [list(ends) for ends in family.held_out]
        simulation = locomotion(self.family, self.horizon, self.action_scale)
        return replace(self.in_simulator(self.family, simulation, protocol), read_task=partial(read_task, self.family))


@dataclass(frozen=True, kw_only=True)
class CheetahVel(Locomotion):
    """A half-cheetah that is to run at a velocity it is not told, from rewards alone (MuJoCo, the extra [rl])."""

    family: ClassVar[str] = "cheetah-vel"


@dataclass(frozen=True, kw_only=True)
class CheetahDir(Locomotion):
    """A half-cheetah that is to run forwards or backwards, from rewards alone (MuJoCo, the extra [rl])."""

    family: ClassVar[str] = "cheetah-dir"


@dataclass(frozen=True, kw_only=True)
class AntVel(Locomotion):
    """An ant that is to run at a velocity it is not told, from rewards alone (MuJoCo, the extra [rl])."""

    family: ClassVar[str] = "ant-vel"


@dataclass(frozen=True, kw_only=True)
class AntDir(Locomotion):
    """An ant that is to run forwards or backwards, from rewards alone (MuJoCo, the extra [rl])."""

    family: ClassVar[str] = "ant-dir"


def presets(settings: Locomotion, minutes: str) -> dict[str, tuple[Locomotion, str]]:
    """What `fewstep list` shows of a family."""
    return {
        "default": (settings, f"ProMP with learned inner rates, on 20 tasks a meta-step: {minutes} on two cores"),
        "maml": (as_published(settings), "MAML with TRPO as published, 500 meta-steps at a fixed inner rate"),
    }


LOCOMOTION = {kind.family: kind for kind in (CheetahVel, CheetahDir, AntVel, AntDir)}
PRESETS = {name: presets(kind(), "ten minutes" if "cheetah" in name else "half an hour") for name, kind in LOCOMOTION.items()}
