"""fewstep train PROBLEM --find-rate: tries inner rates, says which to train with, draws them.

fewstep train PROBLEM --dry-run: what a meta-step takes, before a run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Any

from fewstep.application import Application
from fewstep.cli.arguments import command_name, say
from fewstep.cli.output import WIDTH, short, titled
from fewstep.errors import InputError

PICTURE = "rates.png"


def print_rates(arguments: Any, name: str, preset: str, variants: str) -> int:
    """Tries inner rates on a problem's meta-validation tasks, prints what each does and which to take, draws the picture.

    Raises `InputError`, and writes nothing, where the settings know no inner rate or the folder cannot be written to.
    """
    if arguments.dry_run:
        raise InputError("--find-rate does not go with --dry-run: one adapts to tasks, the other computes nothing. Choose one.")
    from fewstep.application import application_of_problem

    candidates = application_of_problem(name).candidates(arguments.settings)
    if "gradient" not in candidates:
        raise InputError("--find-rate is for --adapter gradient: bayes-head adapts by Bayes' rule, which has no inner rate.")
    settings = candidates["gradient"]
    if settings.adaptation_steps == 0:
        raise InputError("--find-rate needs an adaptation step: with --adaptation-steps 0 there is no inner rate.")
    from fewstep.plots.curves import draw_rates
    from fewstep.supervised.rate_search import RATES, episodes_of, find_rate

    problem = application_of_problem(name).build(settings, arguments.seed)
    picture = Path(arguments.out or ".") / PICTURE
    refuse_unwritable(picture.parent)
    tasks = len(set(episodes_of(problem)[0].tolist()))
    say(f"trying {len(RATES)} inner rates on {tasks} meta-validation tasks ...", json=True)
    if problem.warm_start is not None:
        say("  from an untrained network: what --joint-steps would train first is left out", json=True)
    found = find_rate(problem, arguments.seed)
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_rates(found, picture)
    except OSError as error:
        raise InputError(f"{picture} cannot be written: {error.strerror}. Choose another folder by --out.") from error
    best = found["recommended"]
    line = None if best is None else going_on(arguments, name, preset, variants, best)
    if arguments.json:
        print(json.dumps({**found, "command": line, "picture": str(picture)}))
        return 0
    print_table(found)
    say("\n".join(advice(found, settings.inner_optimizer)))
    if line:
        say(f"go on with: {line}")
    say(f"picture: {picture}")
    return 0


def print_table(found: dict[str, Any]) -> None:
    """A row for each rate; above them the loss before adaptation."""
    from rich.console import Console

    steps = found["adaptation_steps"]
    table = titled(f"{found['problem']}: query loss after {steps} step{'s' * (steps != 1)}")
    for heading in ("inner rate", "median", "mean", "diverges on"):
        table.add_column(heading, justify="right")
    table.add_row("before", *(short(loss) for loss in found["before"].values()), "", end_section=True)
    columns = (found[name] for name in ("rates", "median", "mean", "diverges_on"))
    for rate, median, mean, share in zip(*columns, strict=True):
        shown = f"{rate:g}" if rate != found["recommended"] else f"recommended  {rate:g}"
        table.add_row(shown, shortened(median), shortened(mean), f"{100 * share:.0f} %" if share else "")
    Console(highlight=False, markup=False, emoji=False, width=WIDTH).print(table)
    several = found["episodes"] // found["tasks"]
    each = f", {several} episodes of each" if several > 1 else ""
    say(f"{found['tasks']} meta-validation tasks{each}, from the initial parameters; it diverges where the support loss grows")


def shortened(loss: float | None) -> str:
    """Losses beyond measure as 'diverged': their digits say nothing."""
    return short(loss if loss is not None and abs(loss) < 1e6 else None)


def advice(found: dict[str, Any], optimizer: str) -> list[str]:
    """Which rate to take, where adaptation begins to diverge, and what else has to be known of both."""
    best, wall, before = found["recommended"], found["diverges_from"], found["before"]["median"]
    if best is None:
        return [f"no recommendation: on more than 1 % of tasks every rate from {found['rates'][0]:g} on diverges"]
    loss = found["median"][found["rates"].index(best)]
    lines = [f"recommended: --inner-rate {best:g} (median loss {short(before)} -> {short(loss)})"]
    if wall is not None:
        lines[0] += f"; from {wall:g} on, more than 1 % of tasks diverge"
    if before is not None and loss >= before:
        lines.append("  but no rate lowers the median loss of tasks before training")
    if best == found["rates"][-1]:
        lines.append("  it is the largest that was tried; a larger one may be better yet")
    if optimizer != "sgd":
        lines.append(f"  it is where the rates that --inner-optimizer {optimizer} learns would start")
    return lines


def going_on(arguments: Any, name: str, preset: str, variants: str, rate: float) -> str:
    """The command that trains with `rate`, and with all other settings as they were given."""
    from fewstep.application import settings_of
    from fewstep.recipe.variants import as_options, with_variants

    defaults = with_variants(settings_of(name, preset), variants.split(",") if variants else ())
    words = [command_name(), "train", name]
    words += ["--preset", preset] * (preset != "default") + ["--variant", variants] * bool(variants)
    words += ["--seed", str(arguments.seed)] * bool(arguments.seed)
    given = {field.name: getattr(arguments.settings, field.name) for field in dataclasses.fields(defaults)}
    changed = {name: value for name, value in given.items() if name != "inner_rate" and value != getattr(defaults, name)}
    return shlex.join([*words, *as_options({**changed, "inner_rate": rate})])


def refuse_unwritable(folder: Path) -> None:
    """Raises `InputError` where the folder cannot be made or written to. Makes nothing yet: other input may be bad, too."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.exists(each))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"--out {folder} cannot be written to. Choose a folder that you may write to.")


def print_estimates(owner: Application, settings: Any, seed: int, as_json: bool) -> int:
    """Compiles one meta-step of each adapter's problem by each way to its gradient, and prints what it takes.

    Raises `InputError` where the way that the settings ask for does not fit in memory, with the settings that would.
    """
    found = {name: of_problem(owner.build(each, seed)) for name, each in owner.candidates(settings).items()}
    if as_json:
        print(json.dumps(found))
    else:
        for name, estimates in found.items():
            print_one(f"adapter {name}" if len(found) > 1 else "", estimates)
    for estimates in found.values():
        refuse_what_does_not_fit(estimates)
    return 0


def of_problem(problem: Any) -> dict[str, Any]:
    """As plain data: by way, `bytes`, `operations`, `over_first_order` and `tasks_at_once`; `chosen`; `memory`."""
    import jax

    from fewstep.gradients.exact import has_room
    from fewstep.training.cost import estimate
    from fewstep.training.tuning import shapes_of, tune_learner

    devices = jax.local_device_count()
    params, episode, tasks = shapes_of(problem, devices)
    settings = problem.settings
    asked = settings.meta_gradient if settings.adapter == "gradient" else "stored"
    estimates = estimate(problem.learner, params, episode, tasks, asked)
    first = max(estimates.ways["first-order"].operations, 1)
    learner = tune_learner(problem.learner, params, episode, tasks)
    chosen = ("stored" if has_room(learner, params, episode, jax.random.key(0)) else "exact") if asked == "auto" else asked
    ways = {
        name: {
            "bytes": way.temporary + estimates.given,
            "operations": way.operations * devices,
            "over_first_order": way.operations / first,
            "tasks_at_once": way.tasks_at_once,
        }
        for name, way in estimates.ways.items()
    }
    return {"ways": ways, "chosen": chosen, "memory": estimates.memory, "devices": devices}


def print_one(title: str, estimates: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"one meta-step{', ' if title else ''}{title}", title_justify="left")
    for heading in ("meta-gradient", "memory of a device", "operations", "over first order", "tasks side by side"):
        table.add_column(heading, justify="right")
    for name, way in estimates["ways"].items():
        table.add_row(
            name + (" (taken)" if name == estimates["chosen"] else ""),
            in_bytes(way["bytes"]),
            f"{way['operations'] / 1e9:.3g} GFLOP",
            f"{way['over_first_order']:.2f} x",
            str(way["tasks_at_once"]),
        )
    Console(highlight=False, markup=False, width=WIDTH).print(table)
    devices = f"{estimates['devices']} devices of {in_bytes(estimates['memory'])}"
    say(f"{devices}; operations are those of matrix products, of all devices together")


def refuse_what_does_not_fit(estimates: dict[str, Any]) -> None:
    chosen, memory = estimates["chosen"], estimates["memory"]
    needed = estimates["ways"][chosen]["bytes"]
    if needed <= memory:
        return
    fitting = [name for name, way in estimates["ways"].items() if way["bytes"] <= memory and name != "first-order"]
    ways = [f"--meta-gradient {name}" for name in fitting]
    hint = " or ".join([*ways, "--tasks-at-once 1", "a smaller --meta-batch-size"])
    raise InputError(
        f"a meta-step by --meta-gradient {chosen} takes {in_bytes(needed)} of a device that has {in_bytes(memory)}. Try {hint}."
    )


def in_bytes(size: float) -> str:
    """1234567 as '1.2 MiB'."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"
