"""From settings and a table's format to a Problem of regression or classification. Used by sine and table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fewstep import nn
from fewstep.core import losses
from fewstep.core.losses import Apply, RowError
from fewstep.core.maml import Learner
from fewstep.core.problem import Problem, Trainer
from fewstep.core.types import Key, LeaveOneOut, Loss, MetaParams, Params
from fewstep.recipe.build import (
    Parts,
    bayes_learner,
    bayes_params,
    clip_tasks,
    empirical_priors,
    gradient_learner,
    gradient_params,
    outer_optimizer,
    outer_schedule,
    shrink_inner_rates,
)
from fewstep.recipe.settings import LearningSettings
from fewstep.supervised.columns import TableFormat
from fewstep.variants import (
    bayes_leave_one_out,
    bayes_network,
    class_log_probabilities,
    fresh_context,
    l2_to_init,
    leave_one_out,
    negative_log_likelihood,
    ridge_step,
    with_context,
    with_lora,
)
from fewstep.variants.bayes_head import Prediction, predict


class Model(NamedTuple):
    """A network under one of the adapters: everything that depends on which one it is."""

    init: Callable[[Key], MetaParams]
    predict: Apply
    """standardized means, or log-probabilities of classes"""
    learner: Learner
    leave_one_out: LeaveOneOut
    how: str
    """how it adapts, in words"""
    parts: Mapping[str, Any]
    """fields of the Problem that this adapter alone has"""


def supervised_trainer() -> type[Trainer]:
    """What trains a problem whose model predicts, imported when it is asked for: adaptation needs no training code."""
    from fewstep.supervised.training import SupervisedTrainer

    return SupervisedTrainer


def supervised(
    settings: LearningSettings,
    format: TableFormat,
    *,
    protocol: dict[str, Any],
    layers: dict[str, Any] | None = None,
    **parts: Any,
) -> Problem:
    """A Problem of predicting `format`'s targets from its inputs; `layers` are further arguments of `nn.mlp`, `parts` the other
    fields of the Problem."""
    model = MODELS[settings.adapter](settings, format, layers or {}, parts.get("splits"))
    errors, of_one = row_errors(format), {f"mse {target.name}": place for place, target in enumerate(format.targets)}
    schedule = outer_schedule(settings)
    return Problem(
        **{
            "settings": settings,
            "trainer": supervised_trainer,
            "init": model.init,
            "learner": model.learner,
            "predict": model.predict,
            "metrics": {
                name: losses.mean_over_examples(model.predict, error, of_one.get(name)) for name, error in errors.items()
            },
            "row_error": next(iter(errors.values())),
            "leave_one_out": model.leave_one_out,
            "outer_rate": schedule,
            "outer_optimizer": outer_optimizer(settings),
            "meta_batch_size": settings.meta_batch_size,
            "meta_steps": settings.meta_steps,
            "log_every": settings.log_every,
            "checkpoint_every": settings.checkpoint_every,
            "bad_tasks": settings.bad_tasks,
            "rollbacks": settings.rollbacks,
            "protocol": {
                "shots": settings.shot_range.shown,
                **protocol,
                "trained_adaptation_steps": model.learner.adaptation_steps,
                "adaptation": model.how,
            },
            "format": format,
            **model.parts,
            **parts,
        }
    )


def gradient_model(settings: LearningSettings, format: TableFormat, layers: dict[str, Any], splits: Any) -> Model:
    """All weights are adapted by gradient steps."""
    network = nn.mlp([format.features + settings.context, *settings.hidden, format.outputs], **layers)
    if settings.context:
        network = with_context(network, settings.context)
    elif settings.lora:
        network = with_lora(network, settings.lora)
    predict_outputs, loss = output_and_loss(network.apply, format)
    learner = gradient_learner(settings, network, loss, mlp_parts(settings))
    if settings.context:
        learner = replace(learner, start=fresh_context)
    rate = f"rate {settings.inner_rate:g}" if settings.inner_optimizer == "sgd" else "learned"
    rate += f", {settings.for_gradients[2:].replace('-', ' ', 1)}" * bool(settings.for_gradients)
    steps = sorted({0, 1, learner.adaptation_steps, 2 * learner.adaptation_steps})
    parts = {"evaluation_steps": (*steps, "auto"), "lower_rates": shrink_inner_rates(settings)}
    return Model(
        lambda key: gradient_params(settings, network.init(key)),
        predict_outputs,
        learner,
        leave_one_out(learner, predict_outputs),
        f"{settings.inner_optimizer}, {rate}",
        parts,
    )


def bayes_model(settings: LearningSettings, format: TableFormat, layers: dict[str, Any], splits: Any) -> Model:
    """The last layer is adapted by Bayes' rule."""
    body = nn.mlp([format.features, *settings.hidden], **{**layers, "activation": jnp.tanh}, last_activation=jnp.tanh)
    network = bayes_network(body, settings.hidden[-1], format.outputs)
    outputs_of: Callable[[Prediction], jax.Array] = class_log_probabilities if format.classes else lambda found: found.mean
    predict_outputs = lambda params, inputs: outputs_of(predict(body, params, inputs))  # noqa: E731
    loss: Loss = losses.cross_entropy(predict_outputs) if format.classes else negative_log_likelihood(body)
    learner = bayes_learner(settings, body, loss)
    parts: dict[str, Any] = {
        "evaluation_steps": (*range(learner.adaptation_steps + 1), "auto"),
        "completions": empirical_priors(body, splits),
    }
    if not format.classes:
        parts["deviation"] = lambda params, inputs: predict(body, params, inputs).deviation
    how = "Bayes' rule on the last layer" + f", {settings.body_steps} gradient steps on the features" * bool(
        settings.body_steps
    )
    left_out = leave_one_out(learner, predict_outputs) if settings.body_steps else bayes_leave_one_out(body, outputs_of)
    init = lambda key: bayes_params(settings, network.init(key))  # noqa: E731
    return Model(init, predict_outputs, learner, left_out, how, parts)


def ridge_model(settings: LearningSettings, format: TableFormat, layers: dict[str, Any], splits: Any) -> Model:
    """The last layer is adapted by ridge regression; without hidden layers, that is all there is."""
    del splits
    hidden = settings.hidden
    network = nn.mlp([format.features, *hidden, format.outputs], **layers)
    activation = layers.get("activation", jax.nn.relu)
    body = nn.mlp([format.features, *hidden], **{**layers, "last_activation": activation}) if hidden else None

    def features(params: Params, inputs: jax.Array) -> jax.Array:
        if body is None:
            return inputs
        return body.apply({"layers": {layer: params["layers"][layer] for layer in range(len(hidden))}}, inputs)

    predict_outputs, loss = output_and_loss(network.apply, format)
    step = ridge_step(features, layer=len(hidden))
    learner = clip_tasks(settings, Learner(loss, l2_to_init, 1, adaptation_step=step))
    init = lambda key: MetaParams(network.init(key), jnp.log(jnp.asarray(settings.ridge)))  # noqa: E731
    how = "ridge regression" + " on the last layer" * bool(hidden)
    left_out = leave_one_out(learner, predict_outputs)
    return Model(init, predict_outputs, learner, left_out, how, {"evaluation_steps": (0, 1, "auto")})


def in_context_model(settings: LearningSettings, format: TableFormat, layers: dict[str, Any], splits: Any) -> Model:
    """Nothing is adapted: the network reads the support set together with what it is asked."""
    del layers, splits
    network = nn.set_network(format.features, format.outputs, settings.hidden)
    predict_outputs, loss = output_and_loss(network.apply, format)
    learner = clip_tasks(settings, Learner(loss, optax.identity(), 0, start=nn.read))
    left_out = leave_one_out(learner, predict_outputs)
    how = "none: the network reads the support set"
    return Model(lambda key: MetaParams(network.init(key)), predict_outputs, learner, left_out, how, {"evaluation_steps": (0,)})


def output_and_loss(apply: Apply, format: TableFormat) -> tuple[Apply, Loss]:
    """(what the network predicts: means, or log-probabilities of classes; the loss of it)."""
    if not format.classes:
        return apply, losses.mean_squared_error(apply)
    predict_outputs = lambda params, inputs: jax.nn.log_softmax(apply(params, inputs))  # noqa: E731
    return predict_outputs, losses.cross_entropy(predict_outputs)


MODELS = {
    "gradient": gradient_model,
    "bayes-head": bayes_model,
    "ridge-head": ridge_model,
    "in-context": in_context_model,
}
"""by adapter"""


def mlp_parts(settings: LearningSettings) -> Parts:
    """The head of a multi-layer perceptron is its last layer."""
    prefix = "network." if settings.context else "base." if settings.lora else ""
    layers = tuple(f"{prefix}layers.{number}" for number in range(len(settings.hidden) + 1))
    return {"head": layers[-1:], "body": layers[:-1]}


def row_errors(format: TableFormat) -> dict[str, RowError]:
    """What is measured of each row, the headline first: squared errors in the target's own units; of several targets, in
    standard deviations first; of classes, −log p and whether the likeliest is wrong."""
    if format.classes:
        return {"log_loss": losses.log_loss, "error_rate": losses.wrong}
    units = jnp.asarray(format.units, jnp.float32)
    if len(format.targets) == 1:
        return {"mse": losses.squared_errors_in(units)}

    def of_target(number: int) -> RowError:
        return lambda outputs, targets: jnp.square((outputs[:, number] - targets[:, number]) * units[number])

    single = {f"mse {target.name}": of_target(number) for number, target in enumerate(format.targets)}
    return {"standardized_mse": losses.squared_errors_in(jnp.ones_like(units)), **single}
