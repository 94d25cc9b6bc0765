"""Groceries photographed by phone: is meta-learning worth it there? One network, the same episodes for all: docs/results.md.

python benchmarks/photos.py ../shared/data/grocery_store/grocery84.zip [--shots 1] [--json docs/records/groceries_1.json]
Classes are split by their group (Fruit/Apple), so that test classes are truly new. Arms: the default recipe of MAML; ANIL (the
same, the last layer alone adapts); prototypes (no adaptation step: nearest mean of features, trained episode by episode);
ordinary training on all meta-train classes at once, then fine-tuned on the support set, rate and steps chosen on
meta-validation tasks.
Each arm sees as many images in training as MAML does. Some twelve minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep import MetaParams
from fewstep.cli.arguments import prepare_jax
from fewstep.problem import Problem
from fewstep.problems.images import Images
from fewstep.training.evaluate import compiled_validation, summarize
from fewstep.training.image_examiner import Answers, Examiner, accuracy_of
from fewstep.training.image_report import calibrate_images
from fewstep.training.loop import train_in_memory
from fewstep.types import Params
from fewstep.variants import lslr

RATES, STEPS = (0.01, 0.03, 0.1, 0.3), (5, 10, 20)
"""tried for fine-tuning, on meta-validation tasks"""
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--meta-steps", type=int, default=1000)
    parser.add_argument("--size", type=int, default=84)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    prepare_jax()
    settings = Images(
        data=arguments.data,
        split_by="group",
        parts=(0.63, 0.13, 0.24),
        shots=arguments.shots,
        size=arguments.size,
        queries=5,
        network="conv4-strided",
        filters=32,
        meta_steps=arguments.meta_steps,
        validation_tasks=100,
        log_every=100,
    )
    found: dict[str, Any] = {}
    answers: dict[str, Answers] = {}
    for name, arm in ARMS.items():
        started = time.monotonic()
        problem, params, steps, told = arm(settings, arguments.seed)
        seconds = time.monotonic() - started
        answers[name] = Examiner(problem, params, [steps]).ask(problem.images.test, arguments.tasks, seed=0)  # type: ignore
        found[name] = {**figures(answers[name]), "seconds": round(seconds), "adaptation_steps": steps, **told}
        print(
            f"{name:24} {found[name]['accuracy']:.3f} ± {found[name]['ci95_by_class']:.3f} {told}, {seconds:.0f} s", flush=True
        )
    for name, each in answers.items():
        found[name]["minus_maml"] = difference(each, answers["MAML"])
    problem = settings.build(arguments.seed)
    record = {
        "arms": found,
        "protocol": {
            **problem.protocol,
            "tasks": arguments.tasks,
            "seed": arguments.seed,
            "meta_steps": arguments.meta_steps,
            "size": arguments.size,
        },
        "classes": {part: len(names) for part, names in problem.images.parts.items()},  # type: ignore[union-attr]
        "date": time.strftime("%Y-%m-%d"),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def maml(settings: Images, seed: int):
    """The default recipe."""
    problem = settings.build(seed)
    params = train_in_memory(problem, seed)
    return problem, params, calibrate_images(problem, params)["chosen_steps"], {}


def anil(settings: Images, seed: int):
    """ANIL (Raghu et al. 2020, arXiv 1909.09157): the inner loop moves the last layer alone."""
    problem = settings.build(seed)

    def head_alone(rates: Any) -> optax.GradientTransformation:
        inner = lslr(rates)

        def update(gradient: Params, state: Any, params: Params = None):
            moved, state = inner.update(gradient, state, params)
            updates: Any = moved
            return {**updates, "body": jax.tree.map(jnp.zeros_like, updates["body"])}, state

        return optax.GradientTransformation(inner.init, update)  # type: ignore[arg-type]

    problem = replace(problem, learner=replace(problem.learner, inner_optimizer=head_alone))
    params = train_in_memory(problem, seed)
    return problem, params, calibrate_images(problem, params)["chosen_steps"], {}


def prototypes(settings: Images, seed: int):
    """Prototypical networks (Snell et al. 2017, arXiv 1703.05175): no adaptation step, the nearest mean of features."""
    problem = replace(settings, head="prototype", adaptation_steps=0, multi_step=0.0, first_order_until=0.0).build(seed)
    return problem, train_in_memory(problem, seed), 0, {}


def fine_tuning(settings: Images, seed: int):
    """One classifier of all meta-train classes, then gradient steps from it with a new last layer."""
    plain = replace(settings, inner_optimizer="sgd", head="zero", average=0.0)
    problem = plain.build(seed)
    body = train_jointly(plain, problem, seed)
    params = MetaParams({**problem.init(jax.random.key(0)).theta, "body": body})
    candidates = []
    for rate in RATES:
        for steps in STEPS:
            learner = replace(problem.learner, inner_optimizer=optax.sgd(rate), adaptation_steps=steps)
            tuned = replace(problem, learner=learner)
            candidates.append((float(compiled_validation(tuned)(params, jax.random.key(0))), rate, steps, tuned))
    _, rate, steps, tuned = min(candidates, key=lambda each: each[0])
    return tuned, params, steps, {"inner_rate": rate}


def train_jointly(settings: Images, problem: Problem, seed: int) -> Params:
    """A body trained with a last layer for all meta-train classes, on as many images as MAML's meta-steps look at."""
    found = settings.usable(settings.read(), [], seed)
    (images, classes), format = (found[0], found[1]["train"]), problem.format
    numbers = np.concatenate(
        [start + np.arange(length) for start, length in zip(images.start[classes], images.length[classes], strict=True)]
    )
    labels = np.repeat(np.arange(classes.size), images.length[classes])
    network = settings.body(format.shape)
    body = network.init(jax.random.key(seed))
    size = network.apply(body, jnp.zeros((1, *format.shape))).shape[-1]
    params = {"body": body, "kernel": jnp.zeros((size, classes.size)), "bias": jnp.zeros((1, classes.size))}
    each = settings.ways * (settings.shot_range.most * settings.adaptation_steps + settings.queries)
    batches = settings.meta_steps * settings.meta_batch_size * each // BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, batches))
    pixels = jnp.asarray(images.images[numbers])

    def loss(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        logits = network.apply(params["body"], inputs) @ params["kernel"] + params["bias"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @jax.jit
    def step(params, state, key):
        chosen = jax.random.randint(key, (BATCH,), 0, numbers.size)
        gradient = jax.grad(loss)(params, format.pixels.encode(pixels[chosen]), jnp.asarray(labels)[chosen])
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for number in range(batches):
        params, state = step(params, state, jax.random.fold_in(jax.random.key(seed), number))
    return params["body"]


ARMS = {"MAML": maml, "ANIL": anil, "prototypes": prototypes, "joint, fine-tuned": fine_tuning}


def of_classes(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """(whether right, which class), both [tasks, known queries]."""
    known = answers.known
    label = answers.targets[:, known].argmax(-1)
    return accuracy_of(answers)[:, 0], np.take_along_axis(answers.classes, label, axis=1)


def by_class(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """[classes, 1] means."""
    return np.array([[values[classes == number].mean()] for number in np.unique(classes)])


def figures(answers: Answers) -> dict[str, float]:
    """Accuracy, with 95 % intervals over episodes and over classes."""
    right, classes = of_classes(answers)
    over_episodes, over_classes = summarize(right.mean(1)[:, None]), summarize(by_class(right, classes))
    return {
        "accuracy": float(right.mean()),
        "ci95_episodes": over_episodes["ci95"][0],
        "ci95_by_class": over_classes["ci95"][0],
        "classes": int(np.unique(classes).size),
    }


def difference(answers: Answers, reference: Answers) -> dict[str, float]:
    """Accuracy less that of the reference on the same queries, with its interval over classes."""
    (right, classes), (other, _) = of_classes(answers), of_classes(reference)
    return {"mean": float((right - other).mean()), "ci95_by_class": summarize(by_class(right - other, classes))["ci95"][0]}


if __name__ == "__main__":
    main()
