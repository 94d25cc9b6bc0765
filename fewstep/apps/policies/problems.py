"""Settings of the problems for policies: locomotion in MuJoCo, 2D navigation, and a user's own Gymnasium environment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from fewstep.apps.policies.gymnasium import factory_of, gym_tasks, read_own_task
from fewstep.apps.policies.locomotion import FAMILIES, locomotion, read_task
from fewstep.apps.policies.model import PolicyProblem
from fewstep.apps.policies.nav2d import navigation, normalized, read_goal
from fewstep.apps.policies.settings import PolicySettings, SimulatedSettings, as_published


@dataclass(frozen=True, kw_only=True)
class Locomotion(SimulatedSettings):
    """A robot that is to run in a way it is not told."""

    family: ClassVar[str] = ""

    def build(self, seed: int = 0, format: Any = None) -> PolicyProblem:
        """The PolicyProblem; nothing is simulated. Raises `InputError` if MuJoCo is not installed."""
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
LOCOMOTION_PRESETS = {
    name: presets(kind(), "ten minutes" if "cheetah" in name else "half an hour") for name, kind in LOCOMOTION.items()
}


@dataclass(frozen=True, kw_only=True)
class Nav2d(PolicySettings):
    """A point that is to find its goal from rewards alone; every task has another goal (reinforcement learning)."""

    squared: bool = False
    """reward the squared distance, as the paper's text says, and not the distance, as its code does"""

    def build(self, seed: int = 0, format: Any = None) -> PolicyProblem:
        """The PolicyProblem; nothing is read or simulated."""
        self.check(seed)
        reward = "minus the squared distance" if self.squared else "minus the distance"
        return self.problem(
            "nav2d",
            navigation(self.squared),
            {"reward": reward},
            normalized=partial(normalized, squared=self.squared),
            places=lambda observations: observations[..., :2],
            goal=lambda task: task,
            read_task=read_goal,
        )


NAV2D_PRESETS: dict[str, tuple[Nav2d, str]] = {
    "default": (Nav2d(), "ProMP with learned inner rates: two minutes on two cores"),
    "maml": (
        replace(
            Nav2d(),
            inner_rate=0.1,
            inner_optimizer="sgd",
            outer="trpo",
            deviation=1.0,
            learn_deviation=True,
            trace=1.0,
            meta_steps=500,
        ),
        "MAML with TRPO as published, 500 meta-steps at a fixed inner rate",
    ),
}


@dataclass(frozen=True, kw_only=True)
class OwnEnvironment(SimulatedSettings):
    """Your own Gymnasium environment: --env module:factory, with sample_tasks(rng, n) and set_task(task) (the extra [rl])."""

    env: str = ""
    """module:factory, a function without arguments that makes one environment"""
    action_scale: float = 1.0
    """an action of 1 is so much of the way from the middle of the actions' range to its ends"""

    def build(self, seed: int = 0, format: Any = None) -> PolicyProblem:
        """The PolicyProblem; one environment is made. Raises `InputError` if it does not meet the protocol."""
        self.check(seed)
        simulation = gym_tasks(factory_of(self.env), self.horizon, self.action_scale)
        problem = self.in_simulator("rl", simulation, {"env": self.env})
        return replace(problem, read_task=partial(read_own_task, simulation))


OWN_ENVIRONMENT_PRESETS: dict[str, tuple[OwnEnvironment, str]] = {
    "default": (OwnEnvironment(), "ProMP with learned inner rates, on 20 tasks a meta-step"),
    "maml": (as_published(OwnEnvironment()), "MAML with TRPO as published, 500 meta-steps at a fixed inner rate"),
}
