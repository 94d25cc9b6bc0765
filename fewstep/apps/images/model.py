"""Networks for few-shot classification of images, and the Problem without its tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep import nn
from fewstep.apps.images.format import ImageFormat
from fewstep.apps.images.settings import ImageSettings
from fewstep.core import losses
from fewstep.core.maml import Learner
from fewstep.core.problem import Problem, Splits, WarmStart
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Key, MetaParams, Network, Params
from fewstep.nn.heads import start_of, with_head
from fewstep.recipe.build import gradient_learner, gradient_params, outer_optimizer, outer_schedule, shrink_inner_rates
from fewstep.supervised.model import supervised_trainer
from fewstep.variants import averaged, with_lora

RESNET_FILTERS = 64
"""of ResNet-12's first block, where --filters says nothing else"""
JOINT_RATE, JOINT_AVERAGE = 2e-3, 0.995
"""outer rate of Adam in joint training, which falls to 0, and the decay of the average of its parameters"""
JOINT_PARTS = 8
"""A batch of joint training is split into so many, as a meta-batch is into tasks, so that every core or device has some."""


def body_of(settings: ImageSettings, shape: tuple[int, int, int]) -> Network:
    """The network up to its features, with what adaptation adds to it."""
    body = plain_body(settings, shape)
    return with_lora(body, settings.lora) if settings.lora else body


def plain_body(settings: ImageSettings, shape: tuple[int, int, int]) -> Network:
    """The network up to its features, as published."""
    if settings.network == "resnet12":
        first = RESNET_FILTERS if settings.filters == type(settings).filters else settings.filters
        return nn.resnet12(shape, (first, 5 * first // 2, 5 * first, 10 * first), settings.normalization)
    if settings.network == "mlp":
        inner = nn.mlp([int(np.prod(shape)), *settings.hidden], last_activation=jax.nn.relu)
        return Network(inner.init, lambda params, images: inner.apply(params, images.reshape(images.shape[0], -1)))
    strided = settings.network == "conv4-strided"
    reduction = "stride" if strided else "pool"
    return nn.conv4(shape, None, settings.filters, reduction, settings.normalization, average=strided)


def features_of(settings: ImageSettings, shape: tuple[int, int, int]) -> Callable[[Params, jax.Array], jax.Array]:
    """`(params, images) -> [images, features]`: what the last layer sees."""
    body = body_of(settings, shape)
    return lambda params, images: body.apply(params["body"], images)


def width_of(body: Network, shape: tuple[int, int, int]) -> int:
    """How many features it has."""
    return jax.eval_shape(lambda key, x: body.apply(body.init(key), x), jax.random.key(0), jnp.zeros((1, *shape))).shape[-1]


def image_problem(settings: ImageSettings, format: ImageFormat, **parts: Any) -> Problem:
    """The model, the learner and the outer optimizer; `parts` are the other fields of the Problem."""
    body = body_of(settings, format.shape)
    network = with_head(body, width_of(body, format.shape))
    predict = log_probabilities(network)
    learner = gradient_learner(settings, network, losses.cross_entropy(predict))
    errors = {"error_rate": losses.wrong, "log_loss": losses.log_loss}
    return Problem(
        name=settings.name,
        settings=settings,
        trainer=supervised_trainer,
        init=lambda key: gradient_params(settings, network.init(key)),
        learner=replace(learner, start=start_of(settings.head, body)),
        predict=predict,
        metrics={name: losses.mean_over_examples(predict, error) for name, error in errors.items()},
        row_error=losses.wrong,
        outer_rate=outer_schedule(settings),
        outer_optimizer=outer_optimizer(settings),
        meta_batch_size=settings.meta_batch_size,
        meta_steps=settings.meta_steps,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        bad_tasks=settings.bad_tasks,
        rollbacks=settings.rollbacks,
        lower_rates=shrink_inner_rates(settings),
        validation_tasks=settings.validation_tasks,
        protocol=settings.protocol(),
        format=format,
        baselines=("pixels", "gradients"),
        evaluation_steps=tuple(sorted({0, 1, *(learner.adaptation_steps * times for times in (1, 2, 3))})),
        **parts,
    )


def log_probabilities(network: Network) -> Callable[[Params, jax.Array], jax.Array]:
    return lambda params, images: jax.nn.log_softmax(network.apply(params, images))


def joint_pretraining(problem: Problem, family: TaskFamily, classes: int) -> WarmStart:
    """Ordinary training before meta-training: one classifier of all `classes` at once, on the batches of `family`, several of
    them a step. What meta-training takes over from it is the network up to its features."""
    settings: ImageSettings = problem.settings
    body = plain_body(settings, problem.format.shape)
    network = with_head(body, width_of(body, problem.format.shape), classes)
    predict = log_probabilities(network)
    schedule = optax.cosine_decay_schedule(JOINT_RATE, settings.joint_steps)
    joint = replace(
        problem,
        unit="batch",
        init=lambda key: MetaParams(network.init(key)),
        predict=predict,
        learner=Learner(losses.cross_entropy(predict), optax.identity(), 0),  # no adaptation step: training on query sets
        metrics={"error_rate": losses.mean_over_examples(predict, losses.wrong)},
        outer_rate=schedule,
        outer_optimizer=averaged(optax.adam(schedule), JOINT_AVERAGE),
        rollbacks=0,
        lower_rates=None,
        meta_batch_size=JOINT_PARTS,
        meta_steps=settings.joint_steps,
        splits=Splits(family, family, family),
        images=None,
        validation_tasks=10,
    )

    def transfer(key: Key, solution: MetaParams) -> MetaParams:
        params = problem.init(key)
        body = solution.theta["body"]
        body = {**params.theta["body"], "base": body} if settings.lora else body
        return params._replace(theta={**params.theta, "body": body})

    return WarmStart(joint, transfer)
