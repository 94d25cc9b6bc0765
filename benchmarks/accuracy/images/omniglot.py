"""One run of Omniglot in the four usual settings: 5 and 20 ways, 1 and 5 shots. See docs/results.md.

    python -m benchmarks.accuracy.images.omniglot RUN --out docs/records/accuracy/images/omniglot_best.json

RUN is made by `fewstep train omniglot --preset best --out RUN`. The number of adaptation steps is chosen on meta-validation
tasks of each setting.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.records import Options, write
from fewstep.cli.arguments import prepare_jax
from fewstep.cli.output import print_evaluation
from fewstep.training.progress import read_metrics

SETTINGS = ((5, 1), (20, 1), (5, 5), (20, 5))
KEPT = ("preset", "tasks", "classes", "steps", "metric", "mean", "ci95", "ci95_by_class", "protocol")


def main() -> None:
    parser = Options(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--turned", action="store_true", help="turn classes at test too, as papers on Vinyals' split do")
    arguments = parser.parse_args()
    prepare_jax()
    from fewstep import runs

    run, found = runs.open_run(arguments.run), {}
    for ways, shots in SETTINGS:
        result = run.evaluate((0, 1), ways=ways, shots=shots, rotate_test=arguments.turned or run.settings.rotate_test)
        found[f"{ways} ways, {shots} shots"] = {name: result[name] for name in KEPT}
        print_evaluation(result)
    record = {"settings": found, "joint_seconds": seconds(run.directory / "beginning"), "meta_seconds": seconds(run.directory)}
    write(arguments.out, record)


def seconds(directory: Path) -> int:
    """What the training in `directory` took."""
    return round(read_metrics(directory / "metrics.jsonl")[-1]["seconds"])


if __name__ == "__main__":
    main()
