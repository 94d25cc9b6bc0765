"""Do the intervals of a comparison hold what they promise? Simulated comparisons with a known truth, by `compared` itself.

    python -m benchmarks.accuracy.compare.coverage     # about two minutes

An error is method + seed + task + chance, in units of the spread from task to task. Tasks are skewed (exponential,
log-normal) and seeds differ by 0.3, unless said otherwise. Four questions:

* *intervals*: how often the interval of a difference holds the true one; 95 % are promised.
* *equivalence*: how often methods whose true difference is one or two margins are called equivalent; at most 5 % are promised.
* *families*: of 15 methods at once, how often anything false is said of any: worse when it is not, equivalent when it is not.
* *regret*: how often the chosen method is behind the best one by more than is said; at most 5 % are promised.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from benchmarks.records import Options, write
from fewstep.compare.results import Comparison, Scores
from fewstep.compare.statistics import compared


class Setting(NamedTuple):
    """How errors come about; spreads are standard deviations."""

    shape: str = "exponential"
    seeds: int = 3
    tasks: int = 45
    seed_spread: float = 0.3
    chance: float = 0.3
    """from cell to cell, beyond seed and task"""


def main() -> None:
    parser = Options(__doc__, "accuracy/compare/coverage.json")
    parser.add_argument("--comparisons", type=int, default=500)
    arguments = parser.parse_args()
    started = time.monotonic()
    record: dict[str, Any] = {"confidence": 0.95, "comparisons": arguments.comparisons}
    for question in (intervals, equivalence, families, regret):
        record[question.__name__] = list(question(arguments.comparisons))
        for line in record[question.__name__]:
            print(question.__name__, *(f"{key} {value}" for key, value in line.items()), flush=True)
    record["seconds"] = round(time.monotonic() - started)
    write(arguments.out, record)


def intervals(comparisons: int) -> Iterator[dict[str, Any]]:
    """Two methods, the true difference 0: how often the interval holds it, and how often it lies below and above."""
    settings = [
        Setting(shape, chance=chance) for shape in ("normal", "exponential", "log-normal") for chance in (0.1, 0.3, 1.0)
    ]
    settings += [Setting(seed_spread=spread) for spread in (0.0, 0.1, 1.0)]
    settings += [Setting(seeds=seeds) for seeds in (1, 2, 5, 10)] + [Setting(tasks=tasks) for tasks in (8, 12, 20, 200)]
    for setting in settings:
        setting = setting._replace(seed_spread=0.0) if setting.seeds == 1 else setting
        found = [one.differences["1"] for one in simulated(setting, [0, 0], 0.1, comparisons)]
        below, above = (sum(one.high < 0 for one in found), sum(one.low > 0 for one in found))
        yield {
            **setting._asdict(),
            **counted("covered", comparisons - below - above, comparisons),
            "below": below,
            "above": above,
        }


def equivalence(comparisons: int) -> Iterator[dict[str, Any]]:
    """Two methods, a true difference of one or two margins, of margins small and large beside what can be told."""
    for setting in (Setting(), Setting("log-normal"), Setting(seed_spread=0.0), Setting(tasks=12)):
        for margin in (0.1, 0.3, 0.6, 1.0, 1.5):
            for margins in (1, 2):
                found = simulated(setting, [0, margins * margin], margin, comparisons)
                false = sum(one.differences["1"].outcome == "equivalent" for one in found)
                yield {**setting._asdict(), "margin": margin, "margins": margins} | counted("equivalent", false, comparisons)


def families(comparisons: int) -> Iterator[dict[str, Any]]:
    """16 methods: of some, a false statement is easy."""
    for name, methods in {
        "all alike": [0.0] * 16,
        "one margin": [0.0] + [0.5, -0.5] * 7 + [0.5],
        "some far": [0.0] + [5.0] * 8 + [0.0] * 4 + [0.5] * 3,
    }.items():
        for setting in (Setting(), Setting(seed_spread=0.0)):
            false = sum(any_false(one, methods, 0.5) for one in simulated(setting, methods, 0.5, comparisons))
            yield {"methods": name, **setting._asdict(), "margin": 0.5} | counted("anything_false", false, comparisons)


def any_false(found: Comparison, methods: list[float], margin: float) -> bool:
    """Whether anything said of a method beside the first is false, its true error being `methods` of it."""
    truth = {str(number): method - methods[0] for number, method in enumerate(methods)}
    true = {"worse": lambda d: d > 0, "better": lambda d: d < 0, "equivalent": lambda d: abs(d) < margin}
    return any(one.outcome in true and not true[one.outcome](truth[name]) for name, one in found.differences.items())


def regret(comparisons: int) -> Iterator[dict[str, Any]]:
    """Six methods, the first chosen though others are better."""
    methods = [0.0, -0.3, -0.3, -0.2, 0.1, 0.5]
    for setting in (Setting(), Setting(seed_spread=0.0), Setting("log-normal"), Setting(tasks=12)):
        more = sum(one.regret < 0.3 for one in simulated(setting, methods, 0.3, comparisons))
        yield {**setting._asdict(), "true_regret": 0.3} | counted("more_than_said", more, comparisons)


def simulated(setting: Setting, methods: list[float], margin: float, comparisons: int) -> Iterator[Comparison]:
    """Comparisons with the first method. Half of the spread from task to task is all methods' own, so that it cancels; the
    rest, and the spread from seed to seed, are such that a *difference* has the spreads of `setting`."""
    random = np.random.default_rng(0)
    for _ in range(comparisons):
        shape = setting.seeds, setting.tasks
        alike = 3 * random.exponential(size=setting.tasks)
        errors = []
        for number, method in enumerate(methods):
            own = alike + method
            if number:  # the first method is the plain one: what a difference differs by is the other's
                own = own + task_effects(random, setting) + setting.seed_spread * random.normal(size=(setting.seeds, 1))
                own = own + setting.chance * random.normal(size=shape)
            errors.append(np.broadcast_to(own, shape))
        yield compared([Scores(str(number), one, 1.0) for number, one in enumerate(errors)], "0", margin)


def task_effects(random: np.random.Generator, setting: Setting) -> np.ndarray:
    """[tasks], of mean 0 and spread 1."""
    if setting.shape == "normal":
        return random.normal(size=setting.tasks)
    if setting.shape == "exponential":
        return random.exponential(size=setting.tasks) - 1
    sigma = 0.8  # a skewness of 3.7
    mean = np.exp(sigma**2 / 2)
    return (random.lognormal(0, sigma, setting.tasks) - mean) / (mean * np.sqrt(np.exp(sigma**2) - 1))


def counted(what: str, count: int, of: int) -> dict[str, Any]:
    """A share, with the 95 % interval of what it would be over endlessly many."""
    low, high = binomtest(count, of).proportion_ci(method="wilson")
    return {what: count / of, "between": [round(float(low), 4), round(float(high), 4)]}


if __name__ == "__main__":
    main()
