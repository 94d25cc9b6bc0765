"""Pictures of a run, from the files in its folder alone (floor 4): training curve, error by adaptation step, unseen tasks."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.errors import BadInput
from fewstep.training.log import read_metrics

TRUTH, SUPPORT, BEFORE = "#444444", "#111111", "#bbbbbb"
STEPS = ["#fdbb6b", "#ee7733", "#cc3311", "#771155", "#332288"]


def draw(directory: str | Path) -> list[Path]:
    """Draws what the files of a run directory allow, into `plots/*.png`. Raises `BadInput` where there is no run."""
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise BadInput(f"{directory}: expected the folder of a trained run, found no config.json in it.")
    import matplotlib

    matplotlib.use("agg")
    folder = directory / "plots"
    folder.mkdir(exist_ok=True)
    pictures = []
    for name, source, paint in (
        ("training", "metrics.jsonl", _training),
        ("adaptation", "evaluation.json", _adaptation),
        ("unseen_tasks", "illustrations.json", _unseen_tasks),
    ):
        path = directory / source
        if path.is_file():
            try:
                content: Any = read_metrics(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise BadInput(f"{path} is damaged ({error}). `fewstep evaluate {directory}` writes it again.") from error
            if content:
                pictures.append(_save(paint(content), folder / f"{name}.png"))
    return pictures


def _save(figure, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _axes(columns: int = 1, rows: int = 1, size: tuple[float, float] = (6.4, 4.0)):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _training(records: list[dict[str, Any]]):
    """Meta-loss, and the error on meta-validation tasks in its own units, over meta-steps."""
    validated = [record for record in records if record.get("validation") is not None]
    figure, axes = _axes(1, 2 if validated else 1, (6.4, 5.6 if validated else 3.4))
    curves = [(records, "meta_loss", "meta-loss (mean since the last point)", STEPS[1])]
    if validated:
        curves.append((validated, "validation", "error on meta-validation tasks", STEPS[4]))
    for axis, (points, name, label, color) in zip(axes[:, 0], curves, strict=True):
        values = [point[name] for point in points]
        axis.plot([point["meta_step"] for point in points], values, color=color, lw=1.4, marker="o", ms=3)
        last = (points[-1]["meta_step"], values[-1])
        axis.annotate(f"{last[1]:.3g}", last, xytext=(0, 7), textcoords="offset points", ha="right", fontsize=9)
        _log_scale(axis, values)
        axis.set_xlim(left=0)
        axis.set_title(label, fontsize=10, loc="left")
    axes[-1, 0].set_xlabel("meta-step")
    return figure


def _log_scale(axis, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers, where the values span enough to want one."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not values or min(values) <= 0 or max(values) < 3 * min(values):
        return
    axis.set_yscale("log")
    wide = max(values) > 1e3 * min(values)
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _adaptation(result: dict[str, Any]):
    """Error on unseen tasks over adaptation steps, with its interval."""
    figure, axes = _axes()
    axis = axes[0, 0]
    points = [
        (step, mean, half or 0.0)
        for step, mean, half in zip(result["steps"], result["mean"], result["ci95"], strict=True)
        if mean is not None and step != "auto"
    ]
    steps, means, halves = zip(*points, strict=True) if points else ((), (), ())
    axis.errorbar(steps, means, yerr=halves, color=STEPS[2], marker="o", capsize=4, lw=1.4)
    for step, mean, _ in points:
        axis.annotate(f"{mean:.3g}", (step, mean), textcoords="offset points", xytext=(8, 8), fontsize=9)
    _log_scale(axis, means)
    trained = result["protocol"].get("trained_adaptation_steps")
    if trained is not None:
        axis.axvline(trained, color=BEFORE, lw=1, ls="--", zorder=0)
        axis.text(trained, 0.97, " trained for", transform=axis.get_xaxis_transform(), va="top", fontsize=8, color="#777777")
    shots = result["protocol"].get("shots")
    axis.set_xticks(steps)
    axis.margins(x=0.12, y=0.15)
    axis.set(
        xlabel="adaptation steps",
        ylabel=f"{result['metric']}, 95 % interval over tasks",
        title=f"{result['tasks']} unseen task{'s' * (result['tasks'] != 1)}, {shots} shots",
    )
    return figure


def _unseen_tasks(shown: dict[str, Any]):
    """A few unseen tasks: support points, truth, predictions before and after adaptation."""
    tasks = shown["tasks"]
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = _axes(columns, rows, (max(7.0, 4.2 * columns), 3.1 * rows + 0.5))
    convert = _as_dates if shown["dates"] else lambda values: values
    for axis in list(axes.flat)[len(tasks) :]:
        axis.set_visible(False)
    lighter = max(0, 4 - len(shown["steps"]))  # few steps: no pale colors
    for axis, task in zip(axes.flat, tasks, strict=False):
        x = convert(task["x"])
        # A line through rows that other inputs tell apart, or with several rows at one x, would be no function of x.
        dots = shown["inputs"] > 1 or len(set(task["x"])) < len(task["x"])
        axis.plot(x, task["truth"], "o" if dots else "-", ms=5, color=TRUTH, lw=2.2, alpha=0.45, label="truth")
        for number, (step, prediction) in enumerate(zip(shown["steps"], task["predictions"], strict=True)):
            label = "before adaptation" if step == 0 else f"after {step} step{'s' * (step != 1)}"
            color = BEFORE if step == 0 else STEPS[min(number - 1 + lighter, len(STEPS) - 1)]
            style = "." if dots else "--" if step == 0 else "-"
            axis.plot(x, np.array(prediction, float), style, ms=4, color=color, lw=1.4, label=label)
        axis.plot(convert(task["support_x"]), task["support_y"], "o", color=SUPPORT, ms=4.5, label="support set")
        reach = task["truth"] + task["support_y"]
        low, high = min(reach), max(reach)
        margin = 0.2 * max(high - low, 1e-3)
        axis.set_ylim(low - margin, high + margin)
        axis.set_title(task["title"], fontsize=10)
        axis.tick_params(labelsize=8)
        if shown["dates"]:
            import matplotlib.dates as dates

            locator = dates.AutoDateLocator(minticks=3, maxticks=5)
            axis.xaxis.set_major_locator(locator)
            axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    figure.supxlabel(shown["x"], fontsize=10)
    figure.supylabel(shown["y"], fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _as_dates(seconds: list[float]) -> list[datetime.datetime]:
    start = datetime.datetime(1970, 1, 1)
    return [start + datetime.timedelta(seconds=value) for value in seconds]
