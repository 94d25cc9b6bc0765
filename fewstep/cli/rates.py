"""fewstep train PROBLEM --find-rate: tries inner rates, says which to train with, draws them (floor 6)."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Any

from fewstep.cli.arguments import command_name, say
from fewstep.cli.tables import WIDTH, short, titled
from fewstep.errors import BadInput

PICTURE = "rates.png"


def print_rates(arguments: Any, name: str, preset: str, variants: str) -> int:
    """Tries inner rates on a problem's meta-validation tasks, prints what each does and which to take, draws the picture.

    Raises `BadInput`, and writes nothing, where the settings know no inner rate or the folder cannot be written to.
    """
    if arguments.dry_run:
        raise BadInput("--find-rate does not go with --dry-run: one adapts to tasks, the other computes nothing. Choose one.")
    from fewstep.application import application_of_problem

    candidates = application_of_problem(name).candidates(arguments.settings)
    if "gradient" not in candidates:
        raise BadInput("--find-rate is for --adapter gradient: bayes-head adapts by Bayes' rule, which has no inner rate.")
    settings = candidates["gradient"]
    if settings.adaptation_steps == 0:
        raise BadInput("--find-rate needs an adaptation step: with --adaptation-steps 0 there is no inner rate.")
    from fewstep.plots.rates import draw_rates
    from fewstep.training.find_rate import RATES, episodes_of, find_rate

    problem = application_of_problem(name).build(settings, arguments.seed)
    picture = Path(arguments.out or ".") / PICTURE
    refuse_unwritable(picture.parent)
    tasks = len(set(episodes_of(problem)[0].tolist()))
    say(f"trying {len(RATES)} inner rates on {tasks} meta-validation tasks ...", json=True)
    if problem.beginning is not None:
        say("  from an untrained network: what --joint-steps would train first is left out", json=True)
    found = find_rate(problem, arguments.seed)
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_rates(found, picture)
    except OSError as error:
        raise BadInput(f"{picture} cannot be written: {error.strerror}. Choose another folder by --out.") from error
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
    from fewstep.problems.variants import as_options, with_variants

    defaults = with_variants(settings_of(name, preset), variants.split(",") if variants else ())
    words = [command_name(), "train", name]
    words += ["--preset", preset] * (preset != "default") + ["--variant", variants] * bool(variants)
    words += ["--seed", str(arguments.seed)] * bool(arguments.seed)
    given = {field.name: getattr(arguments.settings, field.name) for field in dataclasses.fields(defaults)}
    changed = {name: value for name, value in given.items() if name != "inner_rate" and value != getattr(defaults, name)}
    return shlex.join([*words, *as_options({**changed, "inner_rate": rate})])


def refuse_unwritable(folder: Path) -> None:
    """Raises `BadInput` where the folder cannot be made or written to. Makes nothing yet: other input may be bad, too."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.exists(each))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise BadInput(f"--out {folder} cannot be written to. Choose a folder that you may write to.")
