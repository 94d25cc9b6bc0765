"""The vocabulary: what a task, a batch, a loss and the meta-parameters are. All other files use these words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

Params: TypeAlias = Any
"""Parameters of a model: any pytree of floating-point arrays."""

Batch: TypeAlias = Any
"""What a loss looks at: any pytree (`Examples`, transitions, trajectories, environment parameters)."""

Key: TypeAlias = jax.Array
"""A typed JAX random key. Randomness is always an argument."""

Loss: TypeAlias = Callable[[Params, Batch, Key], jax.Array]
"""`loss(params, batch, key) -> scalar`: the one function a user has to bring."""

Start: TypeAlias = Callable[[Params, Batch, Key], Params]
"""`start(θ, support, key) -> params`: what the inner loop of a task starts from, where it is not θ itself"""

Metric: TypeAlias = Callable[[Params, Batch], jax.Array]
"""`metric(adapted, query) -> scalar`: how an adapted model is judged, apart from what it minimizes."""


class Examples(NamedTuple):
    """Labelled examples of one task. Rows of weight 0 are padding: they change no loss, no gradient and no metric.

    Where rows lack some of several targets, each cell has a weight of its own: a cell of weight 0 changes nothing either.
    """

    inputs: jax.Array
    """[examples, ...features]"""
    targets: jax.Array
    """[examples, ...outputs]"""
    weight: jax.Array
    """[examples], 1 for a real row and 0 for padding; or [examples, outputs], 1 for a known target. Losses and metrics are
    weighted means, so rows may also count more or less; the closed-form last layers (Bayes, ridge) take 0 and 1 alone"""


class Episode(NamedTuple):
    """One task as a learner meets it: adapt on `support`, be judged on `query`."""

    support: Batch
    query: Batch


class MetaParams(NamedTuple):
    """What the outer loop learns: the initialization θ, and whatever else the inner loop makes use of."""

    theta: Params
    """θ, the parameters from which every task starts"""
    inner: Any = ()
    """learned by the outer loop, used by the inner one: rates, preconditioners, priors; empty for plain MAML"""


LeaveOneOut: TypeAlias = Callable[[MetaParams, Batch, Key, int], jax.Array]
"""`(params, support, key, steps) -> [steps + 1, examples, outputs]`: each support example as predicted by all others, after
every number of adaptation steps"""


class Network(NamedTuple):
    """A model as a pair of pure functions; `fewstep.nn` builds some, any pair with these signatures will do."""

    init: Callable[[Key], Params]
    """`init(key) -> params`"""
    apply: Callable[[Params, jax.Array], jax.Array]
    """`apply(params, inputs) -> outputs`, both [examples, ...]"""
