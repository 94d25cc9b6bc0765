"""A point that has to find its goal (Finn et al. 2017, section 5.3, "2D navigation"); one goal a task.

Goals are uniform in (−0.5, 0.5)², the point starts at the origin and moves by at most 0.1 along each axis; a trajectory
ends within 0.01 of the goal along both, or after 100 steps. The reward is −‖s − g‖ after the move, as in the authors'
code (cbfinn/maml_rl, `point_env_randgoal.py`); their text says the squared distance, which `squared` gives. Figures of
the two are not comparable. An action is in parts of the largest step, from −1 to 1, as their `normalize` has it: a policy
whose deviation starts at 1 then explores the range, and not ten times the range."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from fewstep.apps.policies.environment import Environment, Transition
from fewstep.core.types import Key
from fewstep.errors import InputError

REACH = 0.5
"""goals lie so far from the origin along each axis, at most"""
STRIDE = 0.1
"""of one step along each axis, at most: what an action of 1 does"""
NEAR = 0.01
"""within this distance along both axes the goal is reached"""
HORIZON = 100


def navigation(squared: bool = False, oracle: bool = False, horizon: int = HORIZON) -> Environment:
    """The environment: state, action and task are [2], the observation is the state; with `oracle`, [4], state and goal."""

    def sample_task(key: Key) -> jax.Array:
        return jax.random.uniform(key, (2,), minval=-REACH, maxval=REACH)

    def reset(task: jax.Array, key: Key) -> jax.Array:
        del key
        return jnp.zeros_like(task)

    def observe(state: jax.Array, task: jax.Array) -> jax.Array:
        return jnp.concatenate([state, task]) if oracle else state

    def step(state: jax.Array, action: jax.Array, task: jax.Array, key: Key) -> Transition:
        del key
        state = state + STRIDE * jnp.clip(action, -1, 1)
        error = state - task
        distance = jnp.sum(error**2)
        return Transition(state, -distance if squared else -jnp.sqrt(distance), jnp.all(jnp.abs(error) < NEAR))

    return Environment(sample_task, reset, observe, step, observation_size=4 if oracle else 2, action_size=2, horizon=horizon)


def read_goal(text: str) -> jax.Array:
    """A goal in words, "x,y" or "[x, y]": [2]. Raises `InputError` for anything else."""
    try:
        goal = [float(part) for part in text.strip("[] ").split(",")]
    except ValueError:
        goal = []
    if len(goal) != 2 or not all(map(math.isfinite, goal)):
        raise InputError(f"--task of nav2d: expected a goal x,y such as 0.3,-0.2 (trained on: within ±{REACH}), got {text!r}.")
    return jnp.asarray(goal)


def standing_still(task: jax.Array, squared: bool = False, horizon: int = HORIZON) -> jax.Array:
    """The return of never moving, the zero of normalized returns: scalar. About −38.3 over all goals."""
    return horizon * _reward(task, squared)


def straight_there(task: jax.Array, squared: bool = False, horizon: int = HORIZON) -> jax.Array:
    """The return of an oracle that knows the goal and takes the largest step towards it: scalar, the one of normalized returns.

    Along each axis by itself the largest step is the best one, so no policy does better.
    """

    def step(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        state = state + jnp.clip(task - state, -STRIDE, STRIDE)
        return state, _reward(task - state, squared)  # once there it stays there, which costs nothing: as if it had ended

    return jnp.sum(jax.lax.scan(step, jnp.zeros_like(task), length=horizon)[1])


def normalized(returns: jax.Array, task: jax.Array, squared: bool = False, horizon: int = HORIZON) -> jax.Array:
    """Returns of one task [...] in parts of the way from standing still (0) to the oracle (1)."""
    least, most = standing_still(task, squared, horizon), straight_there(task, squared, horizon)
    return (returns - least) / (most - least)


def _reward(error: jax.Array, squared: bool) -> jax.Array:
    distance = jnp.sum(error**2)
    return -distance if squared else -jnp.sqrt(distance)
