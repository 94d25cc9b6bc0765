"""An empirical prior for a Bayesian last layer, made of meta-train tasks after training (floor 2). See bayes_head.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.types import Examples, Network
from fewstep.variants.bayes_head import BayesParams, posterior, with_constant


def empirical_prior(body: Network, params: BayesParams, tasks: Examples) -> BayesParams:
    """`params` with a center for each of `tasks` (leaves lead with the task axis): the last layer that its rows call for."""

    def center(examples: Examples) -> jax.Array:
        features = with_constant(body.apply(params.body, examples.inputs))
        return posterior(params.belief, features, examples.targets, examples.weight).centers[0]

    centers = jax.lax.map(center, tasks, batch_size=256)
    uniform = jnp.full(centers.shape[0], -jnp.log(centers.shape[0]))
    return params._replace(belief=params.belief._replace(centers=centers, log_weight=uniform))


def shrunk(params: BayesParams, factor: float) -> BayesParams:
    """`params` with `factor` times the width around each center: the bandwidth of an empirical prior."""
    return params._replace(belief=params.belief._replace(root=factor * params.belief.root))
