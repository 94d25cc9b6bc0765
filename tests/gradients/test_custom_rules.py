"""Losses with derivative rules of their own: right by every way, named, and free for ordinary losses. Place:
fewstep/gradients/custom_rules.py, fewstep/check.py."""

import sys
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.experimental.ode import odeint
from known import (
    KEY,
    STEP,
    assert_close,
    bowl_loss,
    bowls,
    finite_differences,
    mlp_loss,
    mlp_params,
    one,
    plain,
    slow_but,
    waves,
)

from fewstep import Episode, Learner, check_meta_gradient
from fewstep.core.maml import task_loss
from fewstep.errors import InputError
from fewstep.gradients import exact, implicit, stored, truncated
from fewstep.gradients.custom_rules import own_rules
from fewstep.nn.fast_pool import largest_along


@jax.custom_vjp
def reverse(x):
    """The identity, whose backward pass turns the gradient around (Ganin & Lempitsky 2015)."""
    return x


reverse.defvjp(lambda x: (x, None), lambda _, slope: (-slope,))


@jax.custom_gradient
def amplified(x):
    return x, lambda slope: 2 * slope * jnp.cos(x)


@jax.custom_vjp
def kernel(x):
    """Its backward pass makes use of the kernel itself, so that a forward derivative of the gradient does not exist."""
    return jnp.tanh(x)


kernel.defvjp(lambda x: (kernel(x), x), lambda x, slope: (slope * (1 - kernel(x) ** 2),))


@jax.custom_jvp
def product(x, y):
    return jnp.sin(x) * y


@product.defjvp
def _product_jvp(primals, tangents):
    (x, y), (x_dot, y_dot) = primals, tangents
    return jnp.sin(x) * y, jnp.cos(x) * y * x_dot + 0.3 * jnp.square(x) * y_dot  # the second is no derivative


@jax.custom_jvp
def rounded(x):
    """A straight-through estimator."""
    return jnp.round(4 * x) / 4


rounded.defjvps(lambda slope, found, x: slope)
binary, bent = jax.custom_jvp(jnp.sign), jax.custom_jvp(jax.nn.relu)
binary.defjvps(lambda slope, found, x: slope * (jnp.abs(x) <= 1))
bent.defjvps(lambda slope, found, x: slope)


@eqx.filter_custom_vjp
def reverse_of_equinox(x):
    return x


reverse_of_equinox.def_fwd(lambda perturbed, x: (x, None))
reverse_of_equinox.def_bwd(lambda kept, slope, perturbed, x: -slope)


def halfway(x, solver):
    """y with y³ + y = x, by a derivative that skips the solve (Fung et al. 2022)."""
    steps = lambda f, y: jax.lax.fori_loop(0, 9, lambda i, y: y - f(y) / (3 * jnp.square(y) + 1), y)  # noqa: E731
    return jax.lax.custom_root(lambda y: y**3 + y - x, x, steps, solver)


def by_conjugate_gradients(x):
    return jax.scipy.sparse.linalg.cg(lambda v: 2 * v + 0.3 * jnp.sum(v), x, maxiter=1)[0]


def flow(x):
    return odeint(lambda y, t: -jnp.tanh(y), x, jnp.linspace(0.0, 1.0, 2))[-1]


RULES = {
    "custom_vjp": reverse,
    "custom_gradient in a loop": lambda x: jax.lax.scan(lambda x, _: (amplified(jnp.sin(x)), None), x, None, 2)[0],
    "custom_vjp mapped": jax.vmap(reverse),
    "custom_vjp rematerialized in a branch": lambda x: jax.lax.cond(x.sum() > -1e9, jax.checkpoint(reverse), jnp.sin, x),
    "custom_vjp in a jit": jax.jit(lambda x: reverse(x)),
    "without forward derivative": kernel,
    "custom_jvp of two": lambda x: product(x, x[::-1]),
}
UNKNOWN = RULES | {
    "custom_jvp by defjvps": rounded,
    "custom_jvp of a function of JAX": binary,
    "custom_jvp of a function of JAX with a rule": bent,
    "custom_vjp in a while loop": lambda x: jax.lax.while_loop(lambda x: x.sum() > 0, reverse, x),
    "custom_vjp of equinox": reverse_of_equinox,
    "custom_root": lambda x: halfway(x[0], lambda g, y: y)[None],
    "an iterative solver": by_conjugate_gradients,
    "odeint": flow,
    "linear_call": lambda x: jax.custom_derivatives.linear_call(lambda _, x: x, lambda _, x: -x, (), x),
}


def with_part(part):
    """A loss of which a hidden layer passes through `part`."""

    def loss(params, batch, key):
        hidden = jnp.tanh(batch.inputs @ params[0]["w"] + params[0]["b"][None])
        return mlp_loss(params, batch, key) + jnp.mean(jnp.square(part(hidden) @ params[1]["w"] - 1))

    return loss


@pytest.mark.parametrize("name", slow_but(RULES, "custom_vjp", "custom_gradient in a loop", "custom_jvp of two"))
def test_every_exact_way_differentiates_adaptation_along_a_field_that_is_no_gradient(float64, name):
    """The judge are finite differences through two steps along that field, to an ordinary loss of the query set."""
    branch, theta, episode = with_part(RULES[name]), mlp_params((1, 3, 1)), one(waves(1), 0)
    theta[0]["w"] += 0.3
    queries = len(episode.query.inputs)

    def loss(params, batch, key):
        return mlp_loss(params, batch, key) if len(batch.inputs) == queries else branch(params, batch, key)

    learner = Learner(loss, optax.sgd(0.1), 2)
    ways = jax.jit(lambda *given: [way(learner, *given)[1].theta for way in (stored, exact, truncated(2))])
    found = ways(plain(theta), episode, KEY, STEP)
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])
    if "custom_jvp" not in name:  # of which the rule stands for the value's derivative in the second derivative, too
        expected = finite_differences(lambda theta: task_loss(learner, plain(theta), episode, KEY, STEP), theta)
        assert_close(found[1], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_exact_goes_through_an_ordinary_differential_equation(float64):
    theta, episode = mlp_params((1, 2, 1)), one(waves(1), 0)
    learner = Learner(with_part(flow), optax.sgd(0.1), 1)
    found = jax.jit(partial(exact, learner))(plain(theta), episode, KEY, STEP)[1].theta
    expected = finite_differences(lambda theta: task_loss(learner, plain(theta), episode, KEY, STEP), theta)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_rule_that_may_be_no_derivative_is_found_wherever_it_is(name):
    assert own_rules(UNKNOWN[name], jnp.full((3,), 0.3))


def with_norms(x):
    layer = nnx.LayerNorm(3, rngs=nnx.Rngs(0))
    return nnx.gelu(layer(x[None]))


ORDINARY = {
    "activations": lambda x: [f(x) for f in (jax.nn.relu, jax.nn.relu6, jax.nn.silu, jax.nn.elu, jax.nn.softplus)],
    "mapped": jax.vmap(jax.nn.relu),
    "rematerialized": jax.checkpoint(lambda x: jax.nn.log_softmax(jax.nn.relu(x))),
    "in a loop": lambda x: jax.lax.scan(lambda x, _: (jax.nn.relu(x), None), x, None, 2),
    "probabilities": lambda x: [jax.nn.softmax(x), jax.nn.logsumexp(x), jnp.logaddexp(x, 2 * x), jax.scipy.special.xlogy(x, x)],
    "direct solves": lambda x: [jnp.linalg.solve(jnp.diag(x), x), jnp.linalg.slogdet(jnp.diag(x))],
    "stop_gradient": lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x),
    "optax": lambda x: [
        optax.softmax_cross_entropy(x, x),
        optax.safe_softmax_cross_entropy(x, x),
        optax.sigmoid_binary_cross_entropy(x, x),
        optax.huber_loss(x),
        optax.kl_divergence(x, x),
        optax.projections.projection_simplex(x),
    ],
    "flax": with_norms,
    "pooling": lambda x: largest_along(x, 0),
    "a derivative of a rule": jax.grad(lambda x: jnp.sum(reverse(jnp.sin(x)))),  # traced, it is an ordinary program
}


@pytest.mark.parametrize("name", ORDINARY)
def test_rules_of_jax_optax_and_flax_are_known_to_be_derivatives(name):
    assert own_rules(ORDINARY[name], jnp.full((3,), 0.3)) == ()


def test_a_rule_is_known_in_a_program_that_was_taken_apart_and_put_together():
    program = jax.make_jaxpr(lambda x: reverse(jax.nn.relu(jnp.logaddexp(x, 1.0))))(jnp.ones(3))
    (name,) = own_rules(jax.vmap(jax.extend.core.jaxpr_as_fun(program)), jnp.ones((2, 3)))
    assert name.startswith("reverse at ") and "test_custom_rules.py:" in name


def test_an_ordinary_loss_pays_nothing_for_the_search(monkeypatch):
    """Its program is, to the letter, the one without a search, and another one than that of a loss with a rule."""
    loss = lambda params, batch, key: with_part(jax.nn.relu)(params, batch, key) + jax.nn.logsumexp(params[0]["b"])  # noqa: E731
    learner, params, episode = Learner(loss, optax.sgd(0.1), 3), plain(mlp_params()), one(waves(1), 0)
    text = lambda: str(jax.make_jaxpr(partial(exact, learner))(params, episode, KEY, STEP))  # noqa: E731
    searched = text()
    monkeypatch.setattr(sys.modules["fewstep.gradients.exact"], "own_rules", lambda *_: ())
    assert text() == searched
    monkeypatch.setattr(sys.modules["fewstep.gradients.exact"], "own_rules", lambda *_: ("one",))
    assert text() != searched


@pytest.mark.parametrize(("part", "name"), [(reverse, "reverse"), (flow, "_odeint")])
def test_implicit_refuses_a_loss_with_rules_of_its_own_and_names_what_works(part, name):
    learner = Learner(with_part(part), optax.sgd(0.1), 2)
    with pytest.raises(InputError, match=f"derivative rule of its own: {name} at .*exact, stored"):
        jax.eval_shape(partial(implicit(1.0), learner), plain(mlp_params()), one(waves(1), 0), KEY, STEP)


def bent_bowl(part):
    """A bowl and, on the support set alone, something beside it that passes through `part`."""

    def loss(theta, batch, key):
        bowl, on = batch
        return bowl_loss(theta, bowl, key) + on * jnp.sum(jnp.sin(part(theta)) * theta[::-1])

    (support, query), theta = one(bowls(1), 0), jnp.array([0.3, -1.2, 0.7])
    return Learner(loss, optax.sgd(0.1), 1), plain(theta), Episode((support, jnp.ones(())), (query, jnp.zeros(()))), KEY


def test_the_check_says_that_adaptation_follows_no_gradient_and_still_passes():
    found = check_meta_gradient(*bent_bowl(reverse))
    assert found.passed
    assert "On the support set the gradient of the loss is not its derivative" in str(found) and "reverse at" in str(found)
    assert "query set the gradient" not in str(found)


def test_the_check_blames_the_way_and_not_the_model_where_two_ways_differ(monkeypatch):
    monkeypatch.setattr(sys.modules["fewstep.gradients.exact"], "own_rules", lambda *_: ())
    found = check_meta_gradient(*bent_bowl(reverse))
    assert not found.passed
    assert "a way is wrong, not the model" in str(found) and "`stored` agrees with finite differences" in str(found)


def test_the_check_tells_what_a_stopped_gradient_does():
    found = check_meta_gradient(*bent_bowl(lambda x: jax.lax.stop_gradient(jnp.sin(x))))
    assert not found.passed
    assert "On the support set the gradient of the loss is not its derivative" in str(found)
    assert "stop_gradient" in str(found) and "a way is wrong" not in str(found)
