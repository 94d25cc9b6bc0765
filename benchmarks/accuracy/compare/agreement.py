"""Do the verdicts of docs/compare agree with longer runs that know nothing of them? Reads records, trains nothing.

    python -m benchmarks.accuracy.compare.agreement

The longer runs are by other benchmarks of this room: other splits, other episodes, whole recipes, rivals fitted in their
own ways. Their errors are brought to the unit of a page by a method that both have. A verdict agrees where the recommended
method is behind the best of the methods that both have by no more than the margin in the longer run, too; one that cannot tell
agrees where that holds of the method so far or of one that it leaves open. A recurrent network that reads the order of
transitions, which does better than MAML on robots, is no method of a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.records import Options, write

TABLE = {
    "bayes-head": "fewstep, Bayesian last layer",
    "maml": "fewstep, 5 gradient steps",
    "gp": "kriging (best linear predictor)",
    "mixed": "linear mixed model (statsmodels)",
    "boosting": "gradient boosting (scikit-learn)",
    "joint": "pooled network",
    "joint-finetuned": "pooled network, fine-tuned",
}
ROBOTS = {
    "maml": "MAML, 5 steps",
    "fomaml": "MAML, first order, 5 steps",
    "bayes-head": "Bayesian last layer",
    "joint": "pooled",
    "joint-finetuned": "pooled, fine-tuned",
    "joint-ridge": "pooled, ridge",
    "scratch": "from scratch",
}
PHOTOS = {
    "maml-from-joint": "best",
    "maml": "MAML",
    "anil": "ANIL",
    "joint-ridge": "prototypes",
    "joint-finetuned": "joint, fine-tuned",
}


class Longer(NamedTuple):
    """Where an independent run stands."""

    record: str
    errors: Callable[[Any], dict[str, float]]
    """method -> its error there, in the unit of that record"""
    unit_by: str
    """the method whose errors bring both to one unit; "" where they have the same"""


def means(names: dict[str, str], part: str) -> Callable[[Any], dict[str, float]]:
    return lambda record: {method: record[part][name]["mean"] for method, name in names.items() if name in record[part]}


def missed(record: Any) -> dict[str, float]:
    return {method: 1 - record["arms"][name]["accuracy"] for method, name in PHOTOS.items()}


def waves(record: Any) -> dict[str, float]:
    """After five steps of ten shots, mean over seeds; a Gaussian process with the same ten."""
    runs = [run["shots"]["10"] for run in record["presets"]["default"]["runs"]]
    after = [run["mean"][run["steps"].index(5)] for run in runs]
    return {"maml": sum(after) / len(after), "gp": record["gaussian_process"]["rbf"]}


LONGER = {
    "weather": Longer("tables/weather", means(TABLE, "methods"), "joint"),
    "gapminder": Longer("tables/gapminder", means({**TABLE, "ridge": "least squares on the unit's rows"}, "methods"), "joint"),
    "robots_severe": Longer("robots/faults_half-cheetah_severe", means(ROBOTS, "arms"), "joint"),
    "robots_mild": Longer("robots/faults_half-cheetah_mild", means(ROBOTS, "arms"), "joint"),
    "groceries": Longer("images/groceries_1", missed, ""),
    "sine": Longer("sine/presets", waves, "gp"),
}


def main() -> None:
    parser = Options(__doc__, "accuracy/compare/agreement.json")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    found = {}
    for name, longer in LONGER.items():
        path = arguments.docs / "compare" / f"{name}.json"
        if path.exists():
            record = json.loads((arguments.docs / "records/accuracy" / f"{longer.record}.json").read_text())
            found[name] = agreement(json.loads(path.read_text()), longer.errors(record), longer.unit_by)
            print(name, json.dumps({key: value for key, value in found[name].items() if key != "methods"}))
    write(arguments.out, found)


def agreement(page: dict[str, Any], longer: dict[str, float], unit_by: str) -> dict[str, Any]:
    """What a page says of the methods that a longer run has, too, and what that says."""
    here = {
        method["name"]: method["error"]["mean"]
        for method in page["methods"]
        if method.get("error") and method["error"]["mean"] is not None
    }
    both = [name for name in longer if name in here]
    unit = longer[unit_by] / here[unit_by] if unit_by else 1.0
    there = {name: longer[name] / unit for name in both}
    best = min(there, key=there.__getitem__)
    method = page["verdict"]["method"]
    still = {
        one["name"] for one in page["methods"] if (one.get("difference") or {}).get("outcome") in ("better", "inconclusive")
    }
    undecided = page["verdict"]["outcome"] == "inconclusive"
    among = [name for name in both if name == method or (undecided and name in still)]
    behind = min((there[name] - there[best] for name in among), default=None)
    return {
        "outcome": page["verdict"]["outcome"],
        "method": method,
        "left_open": sorted(still) if undecided else [],
        "best_in_the_longer_run": best,
        "behind_there": None if behind is None else round(behind, 4),
        "margin": round(page["margin"], 4),
        "agrees": None if behind is None else behind <= page["margin"],
        "methods": {name: {"page": round(here[name], 4), "longer": round(there[name], 4)} for name in both},
    }


if __name__ == "__main__":
    main()
