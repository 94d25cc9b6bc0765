"""fewstep play RUN --out FILE: a policy acts in one task, before adaptation and after each update."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image

from fewstep.application import ADAPTED, Saved
from fewstep.apps.policies.adapted import AdaptedPolicy, open_policy
from fewstep.apps.policies.cli import broken_notes, watched_updates
from fewstep.apps.policies.environment import Environment, Simulation
from fewstep.apps.policies.gymnasium import factory_of, gym_tasks, with_rendering
from fewstep.apps.policies.locomotion import FAMILIES
from fewstep.apps.policies.model import PolicyProblem
from fewstep.apps.policies.networks import Policy
from fewstep.apps.policies.plots import Panel, points, policy_film, robots
from fewstep.apps.policies.run import adapt_policy, build_problem, not_trusted, task_in_words, task_to_json
from fewstep.apps.policies.trajectories import collect
from fewstep.cli.adapted import say_going_on
from fewstep.cli.arguments import prepare_jax, say
from fewstep.core.types import Key, Params
from fewstep.errors import InputError
from fewstep.runs import Run, open_run, settings_of
from fewstep.simulators.film import NoRenderer
from fewstep.simulators.mujoco import Robot
from fewstep.storage.json import validate
from fewstep.storage.tables import moving_picture

STEP_SECONDS = 0.05
"""of the picture: those of control of MuJoCo's robots here, and of what has no time of its own"""
WIDEST = 320
"""pixels of what an environment draws of itself; larger pictures are made smaller"""


@dataclass(frozen=True)
class Play:
    """Watch a policy in a task: before adaptation and after each update."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder, or that of an adapted policy"""
    out: str
    """the moving picture to write: .gif or .webp"""
    task: str = ""
    """the task, as its family understands it (a velocity, 1 or -1, a goal x,y, JSON); by default an unseen one"""
    updates: int = 3
    """how often to adapt, each time on fresh trajectories; 1 to 3 are seen well side by side"""
    env: str = ""
    """the environment to act in, module:factory; one of rl has to be named again, other runs bring theirs"""
    seed: int = 0
    """decides the task, if none is given, and all that is random"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        out = moving_picture(self.out, self.seed)
        prepare_jax()
        if (Path(self.run) / ADAPTED).is_file():
            shown = play_adapted(open_policy(self.run), Path(self.run), self.task, self.env, self.seed)
        else:
            run = open_run(self.run, self.env)
            say_going_on(run)
            say("acting, adapting ...", json=True)
            shown = played(run, self.task, self.updates, self.seed)
        try:
            say("drawing ...", json=True)
            policy_film(panels(shown), STEP_SECONDS, out)
            drawn, why = str(out), ""
        except NoRenderer as error:
            drawn, why = (
                None,
                f"no picture: nothing can draw it here ({error}). Of MuJoCo's robots try MUJOCO_GL=egl or osmesa.",
            )
        figures, notes, task = (
            played_results(shown),
            [*broken_notes(shown.messages), *[why] * bool(why)],
            task_to_json(shown.task),
        )
        taken = shown.about["environment_steps"] if shown.about else []
        if self.json:
            told = {"picture": drawn, "task": task, "played": figures, "environment_steps": taken, "notes": notes}
            print(json.dumps(told))
            return 0
        say(f"task {task_in_words(task)}")
        say(f"{'':18}{'return shown':>14}{'steps':>8}" + f"{'mean return':>14}{'environment steps':>20}" * bool(taken))
        for number, (title, row) in enumerate(figures.items()):
            more = f"{row['mean_return']:14.1f}{taken[number]:20,}" if taken else ""
            say(f"{title:18}{row['return']:14.1f}{row['steps']:8}{more}")
        for line in notes:
            say(line)
        if drawn:
            say(f"picture: {drawn}")
        return 0


class Origin(TypedDict):
    """Which run a policy was adapted from."""

    application: str
    problem: str
    preset: str
    settings: dict[str, Any]
    seed: int


class About(TypedDict):
    """What playing a policy takes of its folder, beside its shape and parameters."""

    run: Origin
    env: str
    task: Any


class ShownTrajectory(NamedTuple):
    """One trajectory."""

    observations: np.ndarray
    """[steps + 1, observed]"""
    rewards: np.ndarray
    """[steps]"""
    snapshots: list[Any]
    """[steps + 1], where the simulation has any"""
    ended: bool
    """whether it ended by itself"""


class Played(NamedTuple):
    """What was played."""

    problem: PolicyProblem
    task: Any
    titles: list[str]
    acted: list[ShownTrajectory]
    about: dict[str, Any] | None
    """where it was adapted for this: mean returns by update, over all trajectories that were collected, and their steps"""
    messages: tuple[str, ...]
    """which trajectories broke"""


def played(run: Run, words: str, updates: int, seed: int) -> Played:
    """Adapts the run's policy to a task and lets what it was after each update act once, from the same beginning."""
    problem = with_pictures(run.problem())
    task = problem.read_task(words) if words else None
    policy, found = adapt_policy(run, task, updates, None, seed, watched_updates, problem)
    titles = ["before", *(f"after {number} update{'s' * (number > 1)}" for number in range(1, updates + 1))]
    acted = [act(problem, theta, found.task, seed) for theta in found.path]
    return Played(problem, found.task, titles, acted, policy.about, found.messages)


def play_adapted(policy: AdaptedPolicy, source: Path, words: str, env: str, seed: int) -> Played:
    """Lets an adapted policy act once, in the task that it was adapted to or in another."""
    try:
        validate(policy.about, About, "the content")
    except ValueError as error:
        raise InputError(
            f"{source / ADAPTED}: expected where the policy comes from, but it is damaged. Adapt again."
        ) from error
    sizes = policy.shape.sizes
    saved = {**policy.about["run"], "sizes": sizes}
    if policy.about["env"] and not env:
        raise not_trusted(source, policy.about["env"])
    settings = settings_of(saved, source / ADAPTED)
    problem = with_pictures(build_problem(settings, saved["seed"], Saved(source, saved), env))
    if not words and policy.about["task"] is None:
        raise InputError(f"{source}: the task that it was adapted to could not be saved. Say which one by --task.")
    task = problem.read_task(words or json.dumps(policy.about["task"]))
    acting = replace(problem, policy=policy.shape.policy())  # whatever the run's settings say
    return Played(problem, task, ["adapted"], [act(acting, policy.theta, task, seed)], None, ())


def with_pictures(problem: PolicyProblem) -> PolicyProblem:
    """The problem, whose environment draws itself where it is a user's own and can."""
    if "env" not in problem.protocol:
        return problem
    scale = getattr(problem.settings, "action_scale", 1.0)
    drawn = gym_tasks(with_rendering(factory_of(problem.protocol["env"])), problem.environment.horizon, scale)
    return replace(problem, environment=drawn)


def panels(shown: Played) -> list[Panel]:
    """The trajectories with their pictures. Raises `NoRenderer` if there are none."""
    problem, found = shown.problem, []
    for number, (title, acted) in enumerate(zip(shown.titles, shown.acted, strict=True)):
        told = ""
        if shown.about:
            told = f"mean of {problem.search.rollouts}: {shown.about['returns'][number]:.1f}"
        picture, now = pictures(problem, shown.task, acted)
        ended = ending(problem) if acted.ended else ""
        found.append(Panel(title, picture, np.cumsum(acted.rewards), ended, told, now))
    return found


def pictures(
    problem: PolicyProblem, task: Any, acted: ShownTrajectory
) -> tuple[Callable[[int], Image.Image], Callable[[int], str]]:
    """(step -> picture, step -> what else is said of it). Raises `NoRenderer`."""
    if problem.places is not None and problem.goal is not None:
        places = np.asarray(problem.places(jnp.asarray(acted.observations)))
        return points(places, np.asarray(problem.goal(task))), lambda step: ""
    if not acted.snapshots:
        raise NoRenderer("the environment has no render_mode rgb_array; let its factory take render_mode and pass it on")
    if acted.snapshots[0].ndim == 1:
        robot, states = Robot(FAMILIES[problem.name].robot), np.array(acted.snapshots)
        seconds, x = states[:, 0] - states[0, 0], states[:, 1] - states[0, 1]
        wanted = f"wanted {task:.2f}" if FAMILIES[problem.name].most is not None else "forwards" if task > 0 else "backwards"
        speed = lambda step: f"{x[step] / seconds[step]:.2f} m/s, " if step else ""  # noqa: E731
        return robots(robot.model, acted.snapshots), lambda step: speed(step) + wanted
    images = [Image.fromarray(np.asarray(image, np.uint8)).convert("RGB") for image in acted.snapshots]
    for image in images:
        image.thumbnail((WIDEST, WIDEST))
    return lambda step: images[step], lambda step: ""


def ending(problem: PolicyProblem) -> str:
    """How a trajectory that ends by itself has ended."""
    known = {"nav2d": "there", "ant-vel": "fell", "ant-dir": "fell"}
    return "ended" if "env" in problem.protocol else known.get(problem.name, "ended")


def act(problem: PolicyProblem, theta: Params, task: Any, seed: int) -> ShownTrajectory:
    """One trajectory of sampled actions. What is random in it is the same for every θ."""
    key = jax.random.key(seed)
    if isinstance(problem.environment, Simulation):
        return act_in_simulation(problem.environment, problem.policy, theta, task, key)
    return act_in_environment(problem.environment, problem.policy, theta, task, key)


def act_in_environment(environment: Environment, policy: Policy, theta: Params, task: Any, key: Key) -> ShownTrajectory:
    found = jax.tree.map(np.asarray, jax.jit(lambda: collect(environment, policy, theta, task, key, 1))())
    lived = int(found.weight[0].sum())
    observations = np.concatenate([found.observations[0, :lived], found.last_observation])
    return ShownTrajectory(observations, found.rewards[0, :lived], [], bool(found.terminated[0].any()))


def act_in_simulation(simulation: Simulation, policy: Policy, theta: Params, task: Any, key: Key) -> ShownTrajectory:
    draw = jax.jit(lambda seen, key: policy.sample(policy.distribution(theta, seen), key))
    look: Callable[[], Any] = simulation.snapshot or (lambda: None)
    seed = int(jax.random.bits(key))
    observations, rewards, ended = [simulation.begin([task], [seed]).observations[0]], [], False
    snapshots = [look()]
    for step in range(simulation.horizon):
        action = np.asarray(draw(observations[-1], jax.random.fold_in(key, step)))
        found = simulation.step(action[None], np.ones(1, bool))
        if not (np.isfinite(found.observations[0]).all() and np.isfinite(found.rewards[0])):
            break
        observations.append(found.observations[0].copy())
        rewards.append(float(found.rewards[0]))
        snapshots.append(look())
        ended = bool(found.terminated[0])
        if ended or found.truncated[0]:
            break
    return ShownTrajectory(np.array(observations), np.array(rewards), snapshots if simulation.snapshot else [], ended)


def played_results(shown: Played) -> dict[str, Any]:
    """By title: the return of the trajectory that is shown, its steps, and the mean return where there is one."""
    about = shown.about or {}
    means = about.get("returns", [None] * len(shown.acted))
    return {
        title: {"return": round(float(acted.rewards.sum()), 4), "steps": len(acted.rewards), "mean_return": mean}
        for title, acted, mean in zip(shown.titles, shown.acted, means, strict=True)
    }
