"""Policies that adapt, on tasks never seen, against their rivals at as many environment steps. See docs/policies.md.

    python -m benchmarks.accuracy.policies.rivals nav2d
    python -m benchmarks.accuracy.policies.rivals cheetah-dir --seeds 0 1 2 --rivals 0
    (likewise cheetah-vel, ant-dir, ant-vel; --runs DIR keeps the trainings there, to go on from after a stop)

What the record already has of the same protocol stays in it, seed by seed: more seeds can be added.

Every seed is trained as `fewstep train PROBLEM` does it, and judged on 40 test tasks, the same for all, with fresh
trajectories for every update; actions are sampled. The rivals: a policy trained on all tasks at once without adapting,
then fine-tuned by the same policy-gradient steps at a rate chosen on validation tasks; one that is told the task; a
recurrent one (RL², recurrent_policy.py), whose columns are its first, second, third and fourth trajectory in a task; and
one never trained."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.accuracy.policies import recurrent
from benchmarks.records import Options, device, read, write
from fewstep.application import presets
from fewstep.apps.policies.environment import ResetResult, Simulation, StepResult
from fewstep.apps.policies.model import PolicyProblem, returns_program
from fewstep.apps.policies.nav2d import navigation, straight_there
from fewstep.apps.policies.report import TEST
from fewstep.apps.policies.settings import PolicySettings
from fewstep.cli.arguments import prepare_jax
from fewstep.core.types import MetaParams
from fewstep.plots.seeds import Panel, seeds_figure
from fewstep.supervised.evaluate import SEEDS, over_seeds, summarize
from fewstep.training import loop
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.progress import read_metrics

TASKS, UPDATES = 40, 3
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""tried for fine-tuning, on validation tasks"""
NO_RATE = 1e-12
"""what trains without adapting"""
VALIDATION = 2_000_000
TRIALS = 5
"""of the recurrent policy in each test task"""
PUBLISHED = {"nav2d": [-40.41, -11.68, -3.33, -3.23]}
"""Finn et al. 2017, table 4"""

Found = tuple[list[float], dict[str, Any]]
"""(mean return after 0, 1, … updates, about the training)"""


def main() -> None:
    parser = Options(__doc__, "accuracy/policies/{problem}.json")
    parser.add_argument("problem", choices=["nav2d", "cheetah-dir", "cheetah-vel", "ant-dir", "ant-vel"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--rivals", type=int, nargs="*", default=[0, 1, 2], help="seeds of the rivals")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="all, unless some are named")
    parser.add_argument("--meta-steps", type=int)
    parser.add_argument("--runs", type=Path, help="where trainings are kept")
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    parser.add_argument("--draw", action="store_true", help="train nothing: draw every seed of the record")
    arguments = parser.parse_args()
    if arguments.draw:
        return draw(read(arguments.out), arguments.images / f"{arguments.problem}_seeds.png")
    prepare_jax()
    settings = presets()[arguments.problem]["default"][0]
    if arguments.meta_steps:
        settings = replace(settings, meta_steps=arguments.meta_steps)
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        seeds = {arm: arguments.seeds if arm == "MAML" else arguments.rivals for arm in arguments.arms}
        for record in tables(settings, arguments.problem, read(arguments.out), seeds, arguments.runs or Path(folder)):
            write(arguments.out, {**record, "device": device()})
    draw(record, arguments.images / f"{arguments.problem}_seeds.png")


def draw(record: dict[str, Any], path: Path) -> None:
    """Every seed of what adapts, after each update."""
    import matplotlib

    matplotlib.use("agg")
    arms = {name: arm["by_seed"] for name, arm in record["arms"].items() if len(arm["by_seed"][0]) > 1}
    figure = seeds_figure(
        [Panel("mean return on 40 test tasks", list(range(UPDATES + 1)), arms)], "updates (of RL²: trajectories)"
    )
    figure.savefig(path, dpi=130)


def tables(
    settings: PolicySettings, name: str, before: dict[str, Any], seeds: dict[str, list[int]], runs: Path
) -> Iterator[dict[str, Any]]:
    """The record after each seed of each arm of `seeds`: returns, their mean over seeds, and its 95 % interval over them."""
    problem = settings.build(0)
    record: dict[str, Any] = {
        "protocol": {**problem.protocol, "tasks": settings.meta_batch_size, "meta_steps": settings.meta_steps,
                     "test_tasks": TASKS, "test_rollouts": problem.evaluation_rollouts,
                     "checkpoint": "best mean return after 1 to 3 updates on validation tasks"},
    }  # fmt: skip
    if name in PUBLISHED:
        goals = jax.vmap(navigation().sample_task)(jax.random.split(jax.random.split(jax.random.key(TEST))[0], TASKS))
        record |= {"straight_there": float(np.mean(jax.vmap(straight_there)(goals))), "published": PUBLISHED[name]}
    same = before.get("protocol") == json.loads(json.dumps(record["protocol"]))
    record["arms"] = before["arms"] if same else {}
    yield record
    for arm, of_seeds in seeds.items():
        for seed in of_seeds:
            returns, told = ARMS[arm](settings, seed, runs / f"{arm.split(',')[0].replace(' ', '-')}-{seed}")
            print(f"seed {seed}  {arm:28}", *(f"{value:8.2f}" for value in returns), told, flush=True)
            record["arms"][arm] = with_seed(record["arms"].get(arm, {"by_seed": [], "runs": []}), seed, returns, told)
            yield record


def with_seed(arm: dict[str, Any], seed: int, returns: list[float], told: dict[str, Any]) -> dict[str, Any]:
    """An arm's part of the record, with one more seed, or with this one anew."""
    found = {run["seed"]: (values, run) for values, run in zip(arm["by_seed"], arm["runs"], strict=True)}
    found[seed] = np.round(returns, 3).tolist(), {"seed": seed, **told}
    by_seed, about = zip(*(found[seed] for seed in sorted(found)), strict=True)
    return {**summarize(np.array(by_seed)), **quartiles(by_seed), "by_seed": by_seed, "runs": about}


def quartiles(by_seed: Sequence[list[float]]) -> dict[str, Any]:
    """By update, the interquartile mean over seeds with its 95 % interval, where there are enough seeds for one."""
    found = [over_seeds(scores) for scores in np.array(by_seed).T]
    return {"iqm": [np.round(each, 3).tolist() for each in found if each is not None]} if len(by_seed) >= SEEDS else {}


def meta_learned(settings: PolicySettings, seed: int, folder: Path) -> Found:
    problem = settings.build(seed)
    params, about = trained(problem, seed, folder)
    judged, drawn = returns_program(problem, TASKS, UPDATES, jax.random.key(TEST), unseen=True)(params)
    values, told = np.asarray(judged.returns, float), {}
    if problem.normalized is not None:
        normalized = jax.vmap(problem.normalized)(jax.numpy.asarray(values), drawn)
        told["normalized"] = np.asarray(normalized, float).mean(0).round(4).tolist()
    if "distinct_tasks" in problem.protocol:
        told["by_direction"] = {str(int(way)): values[drawn == way].mean(0).round(2).tolist() for way in (1, -1)}
    return values.mean(0).tolist(), {**about, **told}


def untrained(settings: PolicySettings, seed: int, folder: Path) -> Found:
    problem = replace(settings, inner_optimizer="sgd", inner_rate=NO_RATE).build(seed)
    params = problem.init(jax.random.key(seed))
    return by_task(problem, params, TEST, 0).mean(0).tolist(), {}


def fine_tuned(settings: PolicySettings, seed: int, folder: Path) -> Found:
    without = replace(settings, inner_optimizer="sgd", inner_rate=NO_RATE)
    params, about = trained(without.build(seed), seed, folder)
    tuned = {rate: replace(without, inner_rate=rate).build(seed) for rate in RATES}
    rate = max(RATES, key=lambda rate: np.mean(by_task(tuned[rate], params, VALIDATION, UPDATES, unseen=False)[:, 1:]))
    return by_task(tuned[rate], params, TEST, UPDATES).mean(0).tolist(), {**about, "rate": rate}


def told_the_task(settings: PolicySettings, seed: int, folder: Path) -> Found:
    without = replace(settings, inner_optimizer="sgd", inner_rate=NO_RATE)
    plain = without.build(seed)
    environment = plain.environment
    told = telling(environment) if isinstance(environment, Simulation) else navigation(oracle=True)
    policy = without.policy(told)
    problem = replace(plain, environment=told, policy=policy, init=lambda key: without.init(policy, key))
    params, about = trained(problem, seed, folder)
    return by_task(problem, params, TEST, 0).mean(0).tolist(), about


def with_memory(settings: PolicySettings, seed: int, folder: Path) -> Found:
    """Trained on as many environment steps, in trials of as many trajectories as a policy that adapts takes to be judged."""
    problem = settings.build(seed)
    trials = settings.meta_batch_size * settings.rollouts * (1 + settings.adaptation_steps) // (1 + UPDATES)
    how = recurrent.Recurrent(trials=trials, trajectories=1 + UPDATES, deviation=settings.deviation)
    started = time.monotonic()

    def watch(number: int, returns: np.ndarray) -> None:
        if number % 20 == 0:
            print(f"  RL² {number}/{settings.meta_steps}", np.round(returns, 2), flush=True)

    theta = recurrent.trained(how, problem.environment, settings.meta_steps, seed, watch)
    drawn = returns_program(problem, TASKS, 1, jax.random.key(TEST), 1, unseen=True)(problem.init(jax.random.key(0)))[1]
    values = recurrent.tested(how, problem.environment, theta, drawn, TRIALS, jax.random.key(TEST))
    return values.mean(0).tolist(), {"seconds": round(time.monotonic() - started)}


def telling(simulation: Simulation) -> Simulation:
    """The simulation, whose observations end with the task, a number."""
    now: dict[str, np.ndarray] = {}

    def told(observations: np.ndarray) -> np.ndarray:
        return np.concatenate([observations, now["tasks"]], axis=1)

    def begin(tasks: Any, seeds: Any) -> ResetResult:
        now["tasks"] = np.asarray(tasks, np.float32)[:, None]
        begun = simulation.begin(tasks, seeds)
        return begun._replace(observations=told(begun.observations))

    def step(actions: np.ndarray, active: np.ndarray) -> StepResult:
        outcome = simulation.step(actions, active)
        return outcome._replace(observations=told(outcome.observations))

    return replace(simulation, begin=begin, step=step, observation_size=simulation.observation_size + 1)


def trained(problem: PolicyProblem, seed: int, folder: Path) -> tuple[MetaParams, dict[str, Any]]:
    """The best checkpoint on validation tasks, of a training in `folder`, which goes on where one was stopped there."""
    begun = (folder / "metrics.jsonl").exists()
    folder.mkdir(parents=True, exist_ok=True)
    loop.train(problem, folder, seed=seed, resume=begun, quiet=True)
    like = jax.eval_shape(lambda: problem.initial_state(problem.init(jax.random.key(0))))
    with Checkpoints(folder / "checkpoints", "read") as checkpoints:
        state, _ = checkpoints.restore(like, "best")
    records = read_metrics(folder / "metrics.jsonl")
    about = {
        "seconds": round(records[-1]["seconds"]),
        "kept": min(records, key=lambda record: record["validation"])["meta_step"],
        "environment_steps": records[-1]["environment_steps"],
    }
    return jax.tree.map(jax.numpy.asarray, state.params), about


def by_task(problem: PolicyProblem, params: MetaParams, tasks: int, updates: int, unseen: bool = True) -> np.ndarray:
    """float64 [TASKS, updates + 1]: mean returns after 0 to so many updates; `tasks` is the key that they are drawn by."""
    values, _ = returns_program(problem, TASKS, max(updates, 1), jax.random.key(tasks), unseen=unseen)(params)
    return np.asarray(values.returns, float)[:, : updates + 1]


ARMS: dict[str, Callable[[PolicySettings, int, Path], Found]] = {
    "MAML": meta_learned,
    "untrained": untrained,
    "pretrained, then fine-tuned": fine_tuned,
    "told the task": told_the_task,
    "RL²": with_memory,
}


if __name__ == "__main__":
    main()
