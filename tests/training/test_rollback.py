"""Runs that stop being finite go back and go on with smaller steps; outer rates that climb at first.

Place: fewstep/training/loop.py, fewstep/variants/outer.py, the schedules in fewstep/recipe/build.py.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import assert_same_bits, bowl_loss, bowl_problem

from fewstep import Learner, MetaParams, TrainingError, init
from fewstep.apps.sine.settings import Sine
from fewstep.core.maml import MetaState
from fewstep.recipe.build import outer_schedule
from fewstep.training import loop
from fewstep.training.progress import read_metrics
from fewstep.variants import averaged, evaluated, scale_updates, slowdown, slower, with_params

LIMIT = 1e3


def walled(learner, params, episode, key, step):
    """Mean squared distance to a point that the parameters of a run never meet beyond LIMIT: there it is not a number."""
    height = bowl_loss(params.theta, episode.query, key)
    return jnp.where(height < LIMIT, height, jnp.nan)


def wild(rate, **changes):
    """Gradient descent on bowls of curvature 0.5 to about 3: it diverges, soon beyond the wall, where rate · curvature > 2."""
    learner = Learner(bowl_loss, optax.sgd(0.1), 2, objective=walled)
    return bowl_problem(
        learner=learner, outer_optimizer=scale_updates(optax.sgd(rate)), outer_rate=optax.constant_schedule(rate), rollbacks=4,
        **changes,
    )  # fmt: skip


def test_a_run_that_diverges_goes_back_with_half_the_rate_until_it_converges(tmp_path, capsys):
    problem = wild(4.0, meta_steps=200, log_every=10)
    state = loop.train(problem, tmp_path, seed=3)
    factor = slowdown(jax.device_get(state))
    assert factor in (0.5, 0.25, 0.125)
    assert int(state.step) == 200
    assert np.isfinite(np.asarray(state.params.theta)).all()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["meta_step"] for line in lines] == list(range(10, 201, 10))  # what was forgotten is not told twice
    told = [warning for line in lines for warning in line.get("warnings", ())]
    assert len(told) == round(-np.log2(factor))
    assert "not finite at meta-step" in told[0]
    assert "with 0.5 of the outer rate" in told[0]
    assert told[0] in capsys.readouterr().err.replace("\n", " ")


def test_a_run_that_went_back_and_is_resumed_ends_in_the_same_bits(tmp_path):
    problem = wild(4.0, meta_steps=200, log_every=10)
    whole = loop.train(problem, tmp_path / "whole", seed=3, quiet=True)
    loop.train(problem, tmp_path / "half", seed=3, meta_steps=100, quiet=True)
    resumed = loop.train(problem, tmp_path / "half", seed=3, resume=True, quiet=True)
    assert_same_bits(jax.device_get(resumed), jax.device_get(whole))


def test_a_run_that_was_killed_before_it_went_back_to_its_beginning_ends_in_the_same_bits(tmp_path, monkeypatch):
    problem = wild(4.0, meta_steps=40, log_every=1, checkpoint_every=1)
    whole = loop.train(problem, tmp_path / "whole", seed=3, quiet=True)
    told = [warning for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") for warning in line.get("warnings", ())]
    assert "Going back to meta-step 0" in told[0]

    class Killed(Exception):
        pass

    def kill(self, done):
        if done == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop.Progress, "advance", kill)
        with pytest.raises(Killed):
            loop.train(problem, tmp_path / "killed", seed=3, quiet=True)
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["1.safetensors"]
    resumed = loop.train(problem, tmp_path / "killed", seed=3, resume=True, quiet=True)
    assert_same_bits(jax.device_get(resumed), jax.device_get(whole))


def test_a_run_gives_up_after_so_many_times_and_at_once_where_it_may_not_go_back(tmp_path):
    problem = wild(1e3, meta_steps=40, log_every=1)
    with pytest.raises(TrainingError, match="not finite at meta-step"):
        loop.train(problem, tmp_path / "never", seed=3, quiet=True)
    with pytest.raises(TrainingError, match="not finite at meta-step"):
        loop.train(replace(wild(4.0, meta_steps=200, log_every=10), rollbacks=0), tmp_path / "none", seed=3, quiet=True)


def test_a_slowed_optimizer_takes_the_same_steps_times_its_factor():
    params = MetaParams(jnp.array([1.0, -2.0]), ())
    gradient = MetaParams(jnp.array([0.5, 3.0]), ())
    optimizer = averaged(scale_updates(optax.adam(0.1)), 0.9)
    state = MetaState(params, optimizer.init(params), jnp.zeros((), jnp.int32))
    assert slowdown(state) == 1.0
    whole = optimizer.update(gradient, state.opt_state, params)[0]
    half = optimizer.update(gradient, slower(state, 0.5).opt_state, params)[0]
    assert_same_bits(whole, optax.adam(0.1).update(gradient, optax.adam(0.1).init(params), params)[0])
    assert_same_bits(half, jax.tree.map(lambda leaf: 0.5 * leaf, whole))
    assert slowdown(slower(slower(state, 0.5), 0.5)) == 0.25
    with pytest.raises(ValueError, match="made by slowed"):
        slower(MetaState(params, optax.adam(0.1).init(params), state.step), 0.5)


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_the_outer_rate_climbs_in_a_straight_line_and_then_is_as_without(kind):
    settings = Sine(meta_steps=100, outer_rate=0.4, outer_schedule=kind)
    climbing = outer_schedule(replace(settings, warm_up=0.2))
    assert [float(climbing(step)) for step in (0, 5, 10)] == pytest.approx([0.0, 0.1, 0.2])
    after = outer_schedule(replace(settings, meta_steps=80))
    assert [float(climbing(20 + step)) for step in (0, 40, 80)] == pytest.approx([float(after(step)) for step in (0, 40, 80)])


def test_parameters_named_as_fields_of_an_optimizers_state_are_left_alone():
    params = MetaParams({"factor": jnp.ones(2), "average": jnp.zeros(3)}, ())
    state = init(averaged(scale_updates(optax.adam(0.1)), 0.9), params)
    assert slowdown(slower(state, 0.5)) == 0.5
    assert_same_bits(slower(state, 0.5)._replace(opt_state=state.opt_state), state)
    changed = with_params(state, lambda given: jax.tree.map(lambda leaf: leaf + 1, given))
    assert_same_bits(evaluated(changed), changed.params)
    assert slowdown(changed) == 1.0
    assert slowdown(init(optax.adam(0.1), params)) is None
