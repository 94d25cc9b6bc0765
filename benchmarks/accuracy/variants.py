"""The family on one table: every variant at one small budget, what it costs, and figures of papers. See docs/variants.md.

    python -m benchmarks.accuracy.variants published                        # CAVIA's and Meta-SGD's own sine protocols
    python -m benchmarks.accuracy.variants sine                             # all variants that apply, 10 shots
    python -m benchmarks.accuracy.variants omniglot --omniglot omniglot/     # 20 ways, 1 shot
    python -m benchmarks.accuracy.variants anil --omniglot omniglot/         # ANIL beside MAML, each at its own rate
    python -m benchmarks.accuracy.variants cost --omniglot omniglot/         # a meta-step of each beside exact MAML's

Each part writes its own record, docs/records/accuracy/variants_PART.json. Variants are set on MAML as published (`--variant
maml,NAME`), so that a row is what the one idea does. On sine waves the inner rate of each is chosen among RATES on
meta-validation tasks, with seed 0, and the figure is the mean of SEEDS; on Omniglot it is one training.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax

from benchmarks.accuracy.images.groceries import figures
from benchmarks.records import Options, in_turn, median_ratio, read, timed, write
from fewstep.apps.images.omniglot import Omniglot
from fewstep.apps.images.predictions import TaskPredictor
from fewstep.apps.sine.settings import Sine
from fewstep.cli.arguments import prepare_jax
from fewstep.core import maml
from fewstep.core.problem import Problem
from fewstep.core.types import MetaParams
from fewstep.errors import TrainingError
from fewstep.recipe.settings import LearningSettings
from fewstep.recipe.variants import VARIANTS, with_variants
from fewstep.supervised.evaluate import compiled_validation, evaluate
from fewstep.training.chunk import compiled_chunk
from fewstep.training.cost import meta_step_operations
from fewstep.training.devices import replicate, task_mesh
from fewstep.training.loop import train_in_memory
from fewstep.training.tuning import prepare

RATES = (0.01, 0.03, 0.1)
RATES_OF_IMAGES = (0.1, 0.4, 1.0)
SEEDS = (1, 2, 3)
SINE = Sine(meta_steps=5_000)
OMNIGLOT = Omniglot(
    joint_steps=0, variation="none", head="shared", train_ways=0, ways=20, filters=32, queries=1, test_queries=5,
    adaptation_steps=5, inner_rate=0.1, meta_batch_size=8, meta_steps=400, validation_tasks=100, average=0.0,
)  # fmt: skip
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "sine": {"cavia": {"inner_rate": 1.0}, "imaml": {"proximal": 5.0}, "meta-curvature": {"inner_rate": 0.003}},
    "omniglot": {"joint-first": {"joint_steps": 1_000}, "boil": {"head": "prototype"}, "evolution": {"meta_steps": 40}},
}
"""settings that a variant needs beside its own: a context of small numbers takes large steps, iMAML reaches its minimum under a
stronger pull, learned matrices multiply what a rate begins with, and a meta-step of evolution takes as long as many others"""
META_STEPS = {"sine": 200, "omniglot": 5}
"""meta-steps that are timed at once"""


def main() -> None:
    parser = Options(__doc__, "accuracy/variants_{part}.json")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--omniglot", default="")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS))
    parser.add_argument("--keep", action="store_true", help="go on with the rows that the record does not have yet")
    arguments = parser.parse_args()
    prepare_jax()
    record = {"part": arguments.part, "rows": {}} | (read(arguments.out) if arguments.keep else {})
    arguments.kept = list(record["rows"])
    arguments.only = [name for name in arguments.only if name not in record["rows"]]
    for name, row in PARTS[arguments.part](arguments):
        record["rows"][name] = row
        print(f"{name:34} {json.dumps(row)}", flush=True)
        write(arguments.out, record)
        jax.clear_caches()  # programs of some rows hold gigabytes


def published(arguments: Any) -> Iterator[tuple[str, Any]]:
    """Sine waves as in the papers: CAVIA with 10 points; Meta-SGD's waves of other frequencies, trained with 5 points."""
    one_step = replace(Sine(), adaptation_steps=1, multi_step=0.0)
    waves = replace(one_step, frequencies=(0.8, 1.2), shots=5, meta_steps=60_000)
    protocols = {
        "CAVIA": (replace(with_variants(one_step, ["cavia"]), inner_rate=1.0), (10,)),
        "Meta-SGD": (with_variants(waves, ["meta-sgd"]), (5, 10, 20)),
        "MAML": (replace(with_variants(waves, ["maml"]), inner_rate=0.01), (5, 10, 20)),
    }
    for name, (settings, shots) in protocols.items():
        runs = []
        for seed in SEEDS:
            params = train_in_memory(settings.build(seed), seed)
            runs.append({str(count): after_one(replace(settings, shots=count).build(seed), params) for count in shots})
        mean = {count: round(statistics.mean(run[count]["mse"] for run in runs), 4) for count in runs[0]}
        yield name, {"mse_by_shots": mean, "runs": runs}


def after_one(problem: Problem, params: MetaParams) -> dict[str, float]:
    """Of 1,000 unseen waves, after one adaptation step."""
    result = evaluate(problem, params, steps=(0, 1))
    return {"before": result["mean"][0], "mse": result["mean"][1], "ci95": result["ci95"][1]}


def settings_of(problem: LearningSettings, name: str) -> LearningSettings:
    """MAML as published with one variant."""
    kind = "sine" if isinstance(problem, Sine) else "omniglot"
    return replace(with_variants(problem, ["maml", name]), **OWN[kind].get(name, {}))


def applying(problem: LearningSettings, only: list[str]) -> list[str]:
    of_images = isinstance(problem, Omniglot)
    return [name for name in only if VARIANTS[name].of_images in (None, of_images)]


def sine(arguments: Any) -> Iterator[tuple[str, Any]]:
    for name in applying(SINE, arguments.only):
        plain = settings_of(SINE, name)
        rates = (plain.inner_rate,) if "inner_rate" in OWN["sine"].get(name, {}) else RATES
        if len(rates) > 1:
            plain = min((replace(plain, inner_rate=rate) for rate in rates), key=validated)
        before, after, seconds, diverged = [], [], [], 0
        for seed in SEEDS:
            started, problem = time.monotonic(), plain.build(seed)
            try:
                params = train_in_memory(problem, seed)
            except TrainingError:
                diverged += 1
                continue
            seconds.append(time.monotonic() - started)
            result = evaluate(problem, params, steps=(0, problem.learner.adaptation_steps))
            before.append(result["mean"][0])
            after.append(result["mean"][1])
        yield (
            name,
            {
                "inner_rate": plain.inner_rate,
                "adaptation_steps": plain.adaptation_steps,
                "before": mean_of(before),
                "mse": mean_of(after),
                "by_seed": [round(value, 4) for value in after],
                "diverged_trainings": diverged,
                "seconds": round(statistics.median(seconds), 1) if seconds else None,
            },
        )


def mean_of(values: list[float]) -> float | None:
    return round(statistics.mean(values), 4) if values else None


def validated(settings: LearningSettings) -> float:
    """The error on meta-validation tasks of a training with seed 0; infinite where it is not a number."""
    problem: Problem = settings.build(0)
    try:
        error = float(compiled_validation(problem)(train_in_memory(problem, 0), jax.random.key(0)))
    except TrainingError:
        return float("inf")
    return error if error == error else float("inf")


def omniglot(arguments: Any) -> Iterator[tuple[str, Any]]:
    base = replace(OMNIGLOT, data_dir=arguments.omniglot)
    for name in applying(base, arguments.only):
        started, problem = time.monotonic(), settings_of(base, name).build(0)
        params = train_in_memory(problem, 0)
        seconds, steps = time.monotonic() - started, problem.learner.adaptation_steps
        found = {
            step: figures(TaskPredictor(problem, params, [step]).predict(problem.images.test, 600, seed=0))  # type: ignore[union-attr]
            for step in (0, steps)
        }
        yield (
            name,
            {
                "meta_steps": problem.meta_steps,
                "adaptation_steps": steps,
                "before": round(found[0]["accuracy"], 4),
                **{key: round(value, 4) for key, value in found[steps].items()},
                "seconds": round(seconds),
            },
        )


def anil(arguments: Any) -> Iterator[tuple[str, Any]]:
    """MAML and ANIL at one budget, each at the rate of RATES_OF_IMAGES that does best on meta-validation tasks."""
    base = replace(OMNIGLOT, data_dir=arguments.omniglot, meta_steps=1_000)
    for name in ("maml", "anil"):
        best: tuple[float, Any] = float("inf"), None
        for rate in RATES_OF_IMAGES:
            problem = replace(settings_of(base, name), inner_rate=rate).build(0)
            params = train_in_memory(problem, 0)
            error = float(compiled_validation(problem)(params, jax.random.key(0)))
            best = min(best, (error, (rate, problem, params)), key=lambda each: each[0])
            print(f"{name} at {rate:g}: error {error:.4f} on meta-validation tasks", flush=True)
        rate, problem, params = best[1]
        steps = problem.learner.adaptation_steps
        found = figures(TaskPredictor(problem, params, [steps]).predict(problem.images.test, 600, seed=0))
        yield name, {"inner_rate": rate, "adaptation_steps": steps, **{key: round(value, 4) for key, value in found.items()}}


def cost(arguments: Any) -> Iterator[tuple[str, Any]]:
    """Time and operations of a meta-step over those of exact MAML, the two timed in turn; medians of the ratios."""
    for base in (SINE, replace(OMNIGLOT, data_dir=arguments.omniglot)):
        kind = "sine" if isinstance(base, Sine) else "omniglot"
        plain = Timed(with_variants(base, ["maml"]), META_STEPS[kind])
        for name in applying(base, arguments.only):
            if f"{kind}: {name}" in arguments.kept:
                continue
            # Of one number of steps, and past the part of a run that first order may take.
            same = replace(settings_of(base, name), adaptation_steps=base.adaptation_steps)
            same = replace(same, first_order_until=0.0, **({"joint_steps": 0} if kind == "omniglot" else {}))
            own = Timed(same, META_STEPS[kind])
            found = in_turn({"own": own.milliseconds, "maml": plain.milliseconds}, 7, warm=0)
            yield (
                f"{kind}: {name}",
                {
                    "milliseconds": round(statistics.median(found["own"]), 3),
                    "time_over_maml": round(median_ratio(found["own"], found["maml"]), 3),
                    "operations_over_maml": round(own.operations / plain.operations, 3),
                },
            )


class Timed:
    """The meta-step of a training, compiled."""

    def __init__(self, settings: LearningSettings, meta_steps: int):
        mesh, key = task_mesh(), jax.random.key(0)
        problem = settings.build(0)
        self.operations = meta_step_operations(problem)
        problem = prepare(problem, mesh, 0, quiet=True)
        chunk, state = compiled_chunk(problem, mesh), replicate(maml.init(problem.outer_optimizer, problem.init(key)), mesh)
        self.run, self.meta_steps = lambda: chunk(state, key, meta_steps)[1].meta_loss, meta_steps
        chunk(state, key, 1)

    def milliseconds(self) -> float:
        return 1e3 * timed(self.run) / self.meta_steps


PARTS = {"published": published, "sine": sine, "omniglot": omniglot, "anil": anil, "cost": cost}

if __name__ == "__main__":
    main()
