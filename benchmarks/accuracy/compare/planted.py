"""Does `compare` find the right answer where it is known? Eight planted families, five samples of tasks of each.

    python -m benchmarks.accuracy.compare.planted     # about two hours of one core

Every comparison sees some 400 tasks, as a user's would; then the methods it trained are asked about 100,000 fresh tasks.
*Regret* is the error of the recommended method less that of the best of them there, in units of the variance of the targets.
A comparison is right where its regret is no more than its margin, and, of the family of few tasks, where it says that it
cannot tell. Finished comparisons stand in the record and are not made again; two processes may share one, each with other
`--families`."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accuracy.compare.families import PLANTED, Planted, bayes_error
from benchmarks.records import Options, read, write
from fewstep.application import application
from fewstep.cli.arguments import prepare_jax
from fewstep.core.types import Episode

FRESH = 100_000
STAGES = 0.02, 0.2, 1.0
"""After these parts of the fresh tasks, methods that are more than `APART` standard errors behind the best are asked no
more."""
APART = 5.0
AT_ONCE = 1_000

Predict = Callable[[Episode], Any]
"""episodes that lead with [episodes] -> outputs [episodes, queries, 1]"""


class Fresh(NamedTuple):
    """What methods err on fresh tasks beyond noise, in units of the variance of the targets."""

    errors: dict[str, float]
    tasks: dict[str, int]
    regret: float
    deviation: float
    """standard error of the regret"""
    best: str


def main() -> None:
    parser = Options(__doc__, "accuracy/compare/planted.json")
    parser.add_argument("--families", nargs="+", choices=list(PLANTED), default=list(PLANTED))
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of a comparison")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fresh", type=int, default=FRESH, help="tasks that say what is true")
    parser.add_argument("--meta-steps", type=int, default=Planted.meta_steps, help="of a recipe; a budget may cut them")
    arguments = parser.parse_args()
    prepare_jax()
    rows = application("sine")  # a run of a planted problem is opened as other rows are
    mock.patch.object(type(rows), "problems", {**rows.problems, "planted": Planted}).start()
    wanted = [(family, sample) for sample in range(arguments.samples) for family in arguments.families]
    for number, (family, sample) in enumerate(wanted):
        if (family, sample) in {(run["family"], run["sample"]) for run in recorded(arguments.out)["runs"]}:
            continue
        settings = Planted(family=family, sample=sample, meta_steps=arguments.meta_steps)
        run = made(settings, arguments.budget, arguments.seeds, arguments.fresh)
        print(
            f"{number + 1} of {len(wanted)}:", *(f"{key} {value}" for key, value in run.items() if key != "methods"), flush=True
        )
        record = recorded(arguments.out)  # read again: another process may have recorded other families meanwhile
        record["runs"] = sorted([*record["runs"], run], key=lambda run: (list(PLANTED).index(run["family"]), run["sample"]))
        record["summary"] = summary(record["runs"])
        write(arguments.out, record)
    print(json.dumps(recorded(arguments.out).get("summary")))


def recorded(path: Path) -> dict[str, Any]:
    """What was recorded before."""
    return {"runs": []} | read(path)


def made(settings: Planted, budget: float, seeds: int, tasks: int = FRESH) -> dict[str, Any]:
    """One comparison, without the curves and probes beside its verdict, and what its methods do on fresh tasks."""
    from fewstep.compare import report, run, runner  # not needed to ask methods that are there

    started = time.monotonic()
    fitted: dict[str, dict[int, Predict]] = defaultdict(dict)
    no_curves = dict.fromkeys(("by_shots", "by_steps", "by_tasks"))
    with (
        mock.patch.object(runner, "methods_of", lambda benchmark, known=runner.methods_of: watched(known(benchmark), fitted)),
        mock.patch.object(report, "curves", lambda *given: no_curves),
        mock.patch.object(report, "probes", lambda *given: {}),
        tempfile.TemporaryDirectory() as folder,
    ):
        found = run.compare(
            settings, Path(folder) / "out", budget_seconds=budget, seeds=seeds, seed=settings.sample, quiet=True
        )
        spent = time.monotonic() - started
        fresh = on_fresh_tasks(settings, reported(found, fitted), found["verdict"]["method"], tasks)
    return judged(settings, found, fresh) | {
        "budget": budget,
        "seconds": round(spent),
        "fresh_seconds": round(time.monotonic() - started - spent),
    }


def watched(methods: Sequence[Any], fitted: dict[str, dict[int, Predict]]) -> tuple[Any, ...]:
    """The same methods, which leave in `fitted` how they predict: by name, then by seed. What is fitted elsewhere than in a
    method's own folder (other settings, longer trainings, fewer tasks) is not what is reported."""

    def watching(method: Any) -> Any:
        def fit(work: Any) -> Any:
            made = method.fit(work)
            if work.folder.parts[-2:] == (method.name, f"seed{work.seed}"):
                fitted[method.name].setdefault(work.seed, made.predict)
            return made

        return replace(method, fit=fit)

    return tuple(watching(method) for method in methods)


def reported(found: dict[str, Any], fitted: dict[str, dict[int, Predict]]) -> dict[str, list[Predict]]:
    """method -> how it predicts, by seed; of the methods and seeds that a comparison reports, those that diverged left out."""
    fine = {method["name"]: method["seeds"] for method in found["methods"] if method.get("error") and not method["diverged"]}
    return {name: [fitted[name][seed] for seed in range(count)] for name, count in fine.items()}


def on_fresh_tasks(settings: Planted, methods: Mapping[str, Sequence[Predict]], recommended: str, tasks: int = FRESH) -> Fresh:
    """Means over seeds of what methods err on fresh tasks."""
    variance = bayes_error(settings)[1]
    misses: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    asked, count, best = list(methods), 0, recommended
    for stage in (max(round(part * tasks), 2) for part in STAGES):
        for episodes, meant in fresh_episodes(settings, range(count, stage)):
            for name in asked:
                each = [np.asarray(predict(episodes), np.float64)[..., 0] - meant for predict in methods[name]]
                misses[name].append(np.mean([np.mean(np.square(miss), 1) for miss in each], 0) / variance)
        count = stage
        joined = {name: np.concatenate(misses[name]) for name in asked}
        best = min(joined, key=lambda name: joined[name].mean())
        asked = [name for name in asked if name in (recommended, best) or _behind(joined[name], joined[best]) < APART]
    errors = {name: np.concatenate(parts) for name, parts in misses.items()}
    lost = errors[recommended] - errors[best]
    return Fresh(
        {name: float(each.mean()) for name, each in errors.items()},
        {name: each.size for name, each in errors.items()},
        float(lost.mean()),
        float(lost.std() / lost.size**0.5),
        best,
    )


def fresh_episodes(settings: Planted, numbers: range) -> Iterator[tuple[Episode, np.ndarray]]:
    """Episodes of fresh tasks, and what their queries would be without noise [episodes, queries]."""
    truth, family = PLANTED[settings.family], settings.fresh()

    def one(task: jax.Array) -> tuple[Episode, jax.Array]:
        episode = family.episode(task, jax.random.fold_in(jax.random.key(23), task))
        return episode, truth.value(episode.query.inputs, truth.draw(jax.random.fold_in(jax.random.key(21), task)))

    draw = jax.jit(jax.vmap(one))
    for first in range(numbers.start, numbers.stop, AT_ONCE):
        episodes, meant = draw(jnp.arange(first, min(first + AT_ONCE, numbers.stop)))
        yield episodes, np.asarray(meant, np.float64)


def _behind(errors: np.ndarray, best: np.ndarray) -> float:
    """By how many standard errors."""
    lost = errors - best
    return float(lost.mean() / max(lost.std() / lost.size**0.5, 1e-12))


def judged(settings: Planted, found: dict[str, Any], fresh: Fresh) -> dict[str, Any]:
    """What a comparison said, and whether that is so."""
    truth, said = PLANTED[settings.family], found["verdict"]
    margin = found["margin"]
    true_differences = {
        name: error - fresh.errors[said["method"]] for name, error in fresh.errors.items() if name != said["method"]
    }
    called = {method["name"]: method["difference"]["outcome"] for method in found["methods"] if method.get("difference")}
    far = [name for name, difference in true_differences.items() if abs(difference) >= 2 * margin]
    least, variance = bayes_error(settings)
    return {
        "family": settings.family,
        "sample": settings.sample,
        "outcome": said["outcome"],
        "method": said["method"],
        "best": fresh.best,
        "margin": margin,
        "regret": round(fresh.regret, 5),
        "deviation": round(fresh.deviation, 6),
        "right": fresh.regret <= margin or (not truth.right and said["outcome"] == "inconclusive"),
        "bayes": round(least / variance, 4),
        "error": round(fresh.errors[said["method"]] + truth.noise**2 / variance, 4),
        "expected": list(truth.right),
        "far": len(far),
        "far_called_equivalent": sum(called.get(name) == "equivalent" for name in far),
        "methods": {
            name: {"error": round(error, 5), "tasks": fresh.tasks[name], "said": called.get(name, "")}
            for name, error in fresh.errors.items()
        },
    }


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is promised: right in 38 of 40, far methods called equivalent in 5 %, cannot tell in 10 % where the data suffice."""
    enough = [run for run in runs if run["expected"]]
    far = sum(run["far"] for run in runs)
    return {
        "runs": len(runs),
        "right": sum(run["right"] for run in runs),
        "far_called_equivalent": sum(run["far_called_equivalent"] for run in runs) / max(far, 1),
        "far": far,
        "cannot_tell_where_data_suffice": sum(run["outcome"] == "inconclusive" for run in enough) / max(len(enough), 1),
    }


if __name__ == "__main__":
    main()
