"""Probes of adaptation: what it gains, and with meaningless targets, in how many directions, in which layers."""

from __future__ import annotations

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.compare.diagnostics.measure import (
    Probe,
    by_task,
    centered,
    effective_rank,
    flat,
    jackknife,
    percent,
    ratio,
    spread_beyond_chance,
)
from fewstep.core.losses import known_part
from fewstep.core.maml import Learner, adapt, started
from fewstep.core.types import Episode, Examples, Key, MetaParams, Params
from fewstep.variants import adapt_only
from fewstep.variants.partial import paths_of

MOST_RUNGS = 6
"""of the ladder of layers; of deeper networks the lower rungs and the whole"""


def gains(learner: Learner, params: MetaParams, episodes: Episode, key: Key) -> dict[str, Probe]:
    """What adaptation takes off the query loss; the same after the targets of the support rows were shuffled among them (what
    gains from labels that mean nothing has memorized tasks: Yin et al. 2020, arXiv 1912.03820); and how hard tasks differ."""

    def losses(episode: Episode, key: Key) -> dict[str, jax.Array]:
        support, query = episode
        adapted = adapt(learner, params, support, key)
        loss = lambda way, batch: learner.loss(way, batch, key)  # noqa: E731
        found = {"before": loss(started(learner, params, support, key), query), "after": loss(adapted, query)}
        if isinstance(support, Examples):
            order = shuffled(known_part(support.weight), key)
            mixed = support._replace(targets=support.targets[order])
            if support.weight.ndim > 1:  # what is not known of a row's targets goes with them
                mixed = mixed._replace(weight=support.weight[order])
            found["shuffled"] = loss(adapt(learner, params, mixed, key), query)
            for half in (0, 1):
                chosen = jnp.arange(query.weight.shape[0]) % 2 == half
                part = query._replace(weight=query.weight * (chosen if query.weight.ndim == 1 else chosen[:, None]))
                found[f"half {half}"] = jnp.where(jnp.sum(part.weight) > 0, loss(adapted, part), jnp.nan)
        return found

    of_task = by_task(losses, episodes, key)
    count = len(of_task["before"])

    def share(after: str) -> tuple[float, float, float]:
        """By how much the mean loss is less than before."""
        return jackknife(lambda keep: 1 - ratio(of_task[after][keep].mean(), of_task["before"][keep].mean()), count)

    value, low, high = share("after")
    if not np.isfinite(value):
        return {}  # the meta-learned start is right already
    says = f"Adapting takes {percent(value)} off the loss on a task's other rows." if value > 0 else "Adapting gains nothing."
    points = ("before adapting", float(of_task["before"].mean())), ("after", float(of_task["after"].mean()))
    found = {"gain": Probe("What adapting gains", value, low, high, says, points)}
    if "shuffled" not in of_task:
        return found
    control, low, high = share("shuffled")
    says = "Nothing is gained with shuffled targets: adaptation uses how targets depend on inputs."
    if control > 0.02 and control > 0.1 * value:
        says = f"{percent(control)} is gained with shuffled targets too: that part is the level of a task, not its shape."
    found["shuffled_gain"] = Probe("The same with shuffled targets", control, low, high, says)
    both = np.stack([of_task["half 0"], of_task["half 1"]])
    both = both[:, np.isfinite(both).all(axis=0)]
    if both.shape[1] > 2 and both.any():  # nothing varies where all is fitted exactly
        value, low, high = jackknife(lambda keep: spread_beyond_chance(both[0], both[1], keep), both.shape[1])
        says = f"After adapting, losses of tasks vary by {percent(value)} of their mean, beyond what chance explains."
        found["difficulty"] = Probe("How unequally hard tasks are", value, low, high, says)
    return found


def shuffled(weight: jax.Array, key: Key) -> jax.Array:
    """[rows]: the rows that count in random order, in the places of the rows that count; padding stays."""
    order = jax.random.uniform(key, weight.shape)
    from_rows = jnp.argsort(jnp.where(weight > 0, order, 2.0))
    return jnp.zeros_like(from_rows).at[jnp.argsort(jnp.where(weight > 0, 0, 1), stable=True)].set(from_rows)


def dimension(learner: Learner, params: MetaParams, episodes: Episode, key: Key) -> dict[str, Probe]:
    """In how many directions θ′ − θ differs from task to task: the effective rank (Σ λ)² / Σ λ² of its principal components
    (the number of directions, where all are equal; Tegnér et al. 2022, arXiv 2207.03804, find it to be that of the tasks)."""

    def moved(episode: Episode, key: Key) -> jax.Array:
        start = started(learner, params, episode.support, key)
        return flat(adapt(learner, params, episode.support, key)) - flat(start)

    change = by_task(moved, episodes, key)
    products = change @ change.T
    value, low, high = jackknife(lambda keep: effective_rank(products, keep), len(change))
    if not np.isfinite(value):
        return {}
    spread = np.linalg.eigvalsh(centered(products))[::-1]
    told = np.cumsum(spread) / spread.sum()
    points = tuple((f"directions for {percent(part)}", float(np.argmax(told >= part) + 1)) for part in (0.5, 0.9, 0.99))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params.theta))
    says = f"Adapted models differ in about {value:.2g} directions, of {parameters:,} parameters and {len(change)} tasks."
    return {"dimension": Probe("In how many directions models adapt", value, low, high, says, points)}


def ladder(learner: Learner, params: MetaParams, episodes: Episode, key: Key) -> dict[str, Probe]:
    """The query loss where only the last k layers adapt (Raghu et al. 2020, arXiv 1909.09157: features are mostly reused), and
    what part of the whole gain the last layer alone brings."""
    support = jax.tree.map(lambda leaf: leaf[0], episodes.support)
    names = layers(jax.eval_shape(lambda: started(learner, params, support, key)))
    counts = sorted({*range(min(len(names), MOST_RUNGS - 1) + 1), len(names)})
    losses = []
    for count in counts:
        adapting = [path for layer in names[len(names) - count :] for path in layer]
        rung = replace(learner, adaptation_step=adapt_only(adapting)) if 0 < count < len(names) else learner
        steps = learner.adaptation_steps if count else 0

        def loss(episode: Episode, key: Key, rung: Learner = rung, steps: int = steps) -> jax.Array:
            return learner.loss(adapt(rung, params, episode.support, key, steps), episode.query, key)

        losses.append(by_task(loss, episodes, key))
    none, last, whole = losses[0], losses[1], losses[-1]
    if none.mean() <= whole.mean():
        return {}  # no gain to have a part in
    share = lambda keep: ratio((none[keep] - last[keep]).mean(), (none[keep] - whole[keep]).mean())  # noqa: E731
    value, low, high = jackknife(share, len(none))
    words = {0: "none adapts", 1: "the last layer", len(names): "all layers"}
    told = [words.get(count, f"the last {count}") for count in counts]
    points = tuple((rung, float(each.mean())) for rung, each in zip(told, losses, strict=True))
    enough = "features are reused, and adapting it is enough" if value > 0.9 else "the layers before it matter too"
    says = f"Adapting the last layer alone brings {percent(value)} of the gain: {enough}."
    return {"ladder": Probe("Which layers have to adapt", value, low, high, says, points)}


def layers(theta: Params) -> list[list[str]]:
    """The paths of the parameters of each layer, from the first to the last: what has one path up to its last number."""
    found: dict[str, list[str]] = {}
    for path in paths_of(theta):
        numbered = re.match(r"(.*\.\d+)(\.|$)", path)
        found.setdefault(numbered[1] if numbered else path.rpartition(".")[0] or path, []).append(path)
    natural = lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]  # noqa: E731
    return [found[name] for name in sorted(found, key=natural)]
