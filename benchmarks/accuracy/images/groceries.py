"""Groceries photographed by phone: is meta-learning worth it there? One network, the same episodes for all: docs/results.md.

python -m benchmarks.accuracy.images.groceries ../shared/data/grocery_store/grocery84.zip [--shots 1] [--out FILE] Classes
are split by their group (Fruit/Apple), so that test classes are truly new. Each arm looks at as many images in training
as the others: the preset `best` (joint training on all meta-train classes at once, then MAML from there); MAML from
random parameters; from the same joint training ANIL (the last layer alone adapts) and prototypes (no adaptation step:
nearest mean of features); joint training alone, longer, fine-tuned on the support set, with the start of its last layer,
rate and steps chosen on meta-validation tasks. Chance is one of the ways. The others are compared with `best`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.records import Options, write
from fewstep import MetaParams
from fewstep.apps.images.predictions import TaskPredictions, TaskPredictor, is_correct
from fewstep.apps.images.problem import PRESETS, Images
from fewstep.apps.images.report import calibrate_images
from fewstep.cli.arguments import prepare_jax
from fewstep.core.problem import Problem
from fewstep.supervised.evaluate import compiled_validation, summarize
from fewstep.training.loop import train_in_memory, with_warm_start
from fewstep.variants import adapt_only

RATES, STEPS, HEADS = (0.01, 0.03, 0.1, 0.3), (0, 5, 10, 20), ("zero", "prototype")
"""tried for fine-tuning, on meta-validation tasks"""
Arm = tuple[Problem, MetaParams, int, dict[str, Any]]
"""(problem, parameters, adaptation steps, what else is told of it)"""


def main() -> None:
    parser = Options(__doc__, "accuracy/images/groceries_{shots}.json")
    parser.add_argument("data")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--size", type=int, default=84)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--joint-steps", type=int, default=PRESETS["best"][0].joint_steps)
    parser.add_argument("--meta-steps", type=int, default=PRESETS["best"][0].meta_steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=1000)
    arguments = parser.parse_args()
    prepare_jax()
    settings = replace(
        PRESETS["best"][0],
        data=arguments.data,
        split_by="group",
        parts=(0.63, 0.13, 0.24),
        shots=arguments.shots,
        size=arguments.size,
        network="conv4-strided",
        filters=arguments.filters,
        joint_steps=arguments.joint_steps,
        meta_steps=arguments.meta_steps,
    )
    found: dict[str, Any] = {}
    answers: dict[str, TaskPredictions] = {}
    problem = settings.build(arguments.seed)
    assert problem.warm_start is not None
    started = time.monotonic()
    solution = train_in_memory(problem.warm_start.problem, arguments.seed)
    joint_seconds = time.monotonic() - started
    for name, (arm, from_joint) in ARMS.items():
        started = time.monotonic()
        trained, params, steps, told = arm(settings, arguments.seed, solution)
        seconds = time.monotonic() - started + joint_seconds * from_joint
        answers[name] = TaskPredictor(trained, params, [steps]).predict(trained.images.test, arguments.tasks, seed=0)  # type: ignore
        found[name] = {**figures(answers[name]), "seconds": round(seconds), "adaptation_steps": steps, **told}
        shown = f"{found[name]['accuracy']:.3f} ± {found[name]['ci95_by_class']:.3f}, {steps} steps {told}, {seconds:.0f} s"
        print(f"{name:24} {shown}", flush=True)
    for name, each in answers.items():
        found[name]["minus_best"] = difference(each, answers["best"])
    record = {
        "arms": found,
        "protocol": {
            **problem.protocol,
            "tasks": arguments.tasks,
            "seed": arguments.seed,
            "joint_steps": arguments.joint_steps,
            "meta_steps": arguments.meta_steps,
            "filters": arguments.filters,
            "size": arguments.size,
        },
        "classes": {part: len(names) for part, names in problem.images.parts.items()},  # type: ignore[union-attr]
    }
    write(arguments.out, record)


def images_of_a_meta_step(settings: Images) -> int:
    """How many images a meta-step looks at, an image as often as it is looked at."""
    return settings.meta_batch_size * settings.ways * (settings.shot_range.most * settings.adaptation_steps + settings.queries)


def chosen(problem: Problem, params: MetaParams) -> Arm:
    return problem, params, calibrate_images(problem, params)["chosen_steps"], {}


def best(settings: Images, seed: int, solution: MetaParams) -> Arm:
    """Joint training, then MAML."""
    problem = with_warm_start(settings.build(seed), solution)
    return chosen(problem, train_in_memory(problem, seed))


def maml(settings: Images, seed: int, solution: MetaParams) -> Arm:
    """The same from random parameters, with as many meta-steps more as make up for joint training."""
    more = settings.joint_steps * settings.joint_batch // images_of_a_meta_step(settings)
    problem = replace(settings, joint_steps=0, meta_steps=settings.meta_steps + more).build(seed)
    return chosen(problem, train_in_memory(problem, seed))


def anil(settings: Images, seed: int, solution: MetaParams) -> Arm:
    """ANIL (Raghu et al. 2020, arXiv 1909.09157): the inner loop moves the last layer alone."""
    problem = with_warm_start(settings.build(seed), solution)
    problem = replace(problem, learner=replace(problem.learner, adaptation_step=adapt_only("head")))
    return chosen(problem, train_in_memory(problem, seed))


def prototypes(settings: Images, seed: int, solution: MetaParams) -> Arm:
    """Prototypical networks (Snell et al. 2017, arXiv 1703.05175): no adaptation step, the nearest mean of features."""
    more = images_of_a_meta_step(settings) / images_of_a_meta_step(replace(settings, shots=0, adaptation_steps=0))
    plain = replace(settings, head="prototype", adaptation_steps=0, multi_step=0.0, first_order_until=0.0)
    problem = with_warm_start(replace(plain, meta_steps=int(settings.meta_steps * more)).build(seed), solution)
    return problem, train_in_memory(problem, seed), 0, {}


def fine_tuning(settings: Images, seed: int, solution: MetaParams) -> Arm:
    """One classifier of all meta-train classes, then gradient steps from it with a new last layer."""
    more = settings.meta_steps * images_of_a_meta_step(settings) // settings.joint_batch
    plain = replace(settings, inner_optimizer="sgd", average=0.0, joint_steps=settings.joint_steps + more)
    first = plain.build(seed).warm_start
    assert first is not None
    longer = train_in_memory(first.problem, seed)
    candidates = []
    for head in HEADS:
        problem = replace(plain, head=head).build(seed)
        params = with_warm_start(problem, longer).init(jax.random.key(0))
        for rate, steps in [(RATES[0], 0), *((rate, steps) for rate in RATES for steps in STEPS[1:])]:
            learner = replace(problem.learner, inner_optimizer=optax.sgd(rate), adaptation_steps=steps)
            tuned = replace(problem, learner=learner)
            error = float(compiled_validation(tuned)(params, jax.random.key(0)))
            candidates.append((error, head, rate, steps, tuned, params))
    _, head, rate, steps, tuned, params = min(candidates, key=lambda each: each[0])
    return tuned, params, steps, {"head": head, "inner_rate": rate}


ARMS = {
    "best": (best, True),
    "MAML": (maml, False),
    "ANIL": (anil, True),
    "prototypes": (prototypes, True),
    "joint, fine-tuned": (fine_tuning, False),
}
"""name -> (arm, whether it begins from joint training)"""


def of_classes(answers: TaskPredictions) -> tuple[np.ndarray, np.ndarray]:
    """(whether right, which class), both [tasks, known queries]."""
    known = answers.known
    label = answers.targets[:, known].argmax(-1)
    return is_correct(answers)[:, 0], np.take_along_axis(answers.classes, label, axis=1)


def by_class(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """[classes, 1] means."""
    return np.array([[values[classes == number].mean()] for number in np.unique(classes)])


def figures(answers: TaskPredictions) -> dict[str, float]:
    """Accuracy, with 95 % intervals over episodes and over classes."""
    right, classes = of_classes(answers)
    over_episodes, over_classes = summarize(right.mean(1)[:, None]), summarize(by_class(right, classes))
    return {
        "accuracy": float(right.mean()),
        "ci95_episodes": over_episodes["ci95"][0],
        "ci95_by_class": over_classes["ci95"][0],
        "classes": int(np.unique(classes).size),
    }


def difference(answers: TaskPredictions, reference: TaskPredictions) -> dict[str, float]:
    """Accuracy less that of the reference on the same queries, with its interval over classes."""
    (right, classes), (other, _) = of_classes(answers), of_classes(reference)
    return {"mean": float((right - other).mean()), "ci95_by_class": summarize(by_class(right - other, classes))["ci95"][0]}


if __name__ == "__main__":
    main()
