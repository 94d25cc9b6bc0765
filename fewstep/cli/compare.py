"""fewstep compare PROBLEM: is meta-learning worth it on these tasks?

A comparison for people at a terminal: the verdict in sentences, then a table of all methods.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

from fewstep.cli import printable
from fewstep.cli.arguments import command_name, parse, prepare_jax, say, spread_ranges
from fewstep.cli.failures import resource_error
from fewstep.cli.output import WIDTH, titled
from fewstep.cli.train import free_folder, taken
from fewstep.errors import InputError, TrainingError


def print_first(rows: list[dict[str, Any]]) -> None:
    """What the quick methods do on validation tasks, while the others are still trained. On stderr."""
    from rich.console import Console

    metric = rows[0]["metric"]
    table = titled(f"first, without training: {metric} on validation tasks")
    for name in ("method", metric):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        table.add_row(row["title"], three_digits(row["validation"]))
    Console(file=sys.stderr, highlight=False, markup=False, emoji=False, width=WIDTH).print(table)


def print_comparison(found: dict[str, Any]) -> None:
    """The verdict, the table, and how it was got."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, width=WIDTH)
    print("\n".join(textwrap.wrap(" ".join(found["verdict"]["sentences"]), WIDTH)) + "\n")
    console.print(methods_table(found))
    for method in found["methods"]:
        if method["note"]:
            print("\n".join(textwrap.wrap(f"{method['title']}: {method['note']}", WIDTH, subsequent_indent="  ")))
    protocol = found["protocol"]
    print(
        "\n".join(
            textwrap.wrap(
                f"{found['metric']['title']}; margin {found['margin']:.3g}; question: {found['question']}. "
                f"{protocol['test_tasks']} test tasks, {judged(protocol)}; {protocol['meta_steps']} meta-steps; "
                f"{protocol['spent_s']:.0f} s of {protocol['budget_s']:.0f} s.",
                WIDTH,
            )
        )
    )


def judged(protocol: dict[str, Any]) -> str:
    """On what methods were judged, of each test task."""
    if "updates" in protocol:
        return f"{protocol['updates']} updates in each, {protocol['trajectories_per_update']} trajectories for every update"
    return f"{protocol['episodes_per_task']} episodes of each with {protocol['shots']} support examples"


def methods_table(found: dict[str, Any]) -> Any:
    """A row for each method that took part, the recommended one first."""
    table = titled(f"{found['problem']}: {found['metric']['name']} on unseen tasks")
    table.add_column("method")
    for name in (
        f"{found['metric']['name']}\n(95 % interval)",
        "beside the chosen\n(95 % interval)",
        "",
        "equal\ncompute",
        "training",
        "adapting",
    ):
        table.add_column(name, justify="left" if not name else "right")
    for method in found["methods"]:
        if method.get("left_out"):
            continue
        difference = method["difference"]
        table.add_row(
            method["title"],
            with_bounds(method["error"]),
            "" if difference is None else with_bounds(difference, signed=True),
            "chosen" if difference is None else difference["outcome"],
            three_digits(method["equal_compute"]["mean"]) if method["equal_compute"] else "",
            f"{method['train_seconds']:.1f} s",
            f"{method['adapt_milliseconds']:.2g} ms",
        )
    return table


def with_bounds(found: dict[str, float | None], signed: bool = False) -> str:
    if found["mean"] is None:
        return "diverged"
    mean = f"{found['mean']:+.3f}" if signed else f"{found['mean']:.3f}"
    if found["low"] is None or found["high"] is None:
        return mean
    bounds = (f"{found[end]:+.3f}" if signed else f"{found[end]:.3f}" for end in ("low", "high"))
    return f"{mean} ({' … '.join(bounds)})"


def three_digits(value: float | None) -> str:
    return "diverged" if value is None or value != value else f"{value:.3f}"


MOST_SECONDS = 366 * 24 * 3600
USAGE = """usage: fewstep compare PROBLEM [--preset NAME] [--budget 10m] [--seeds 3] [--margin M] [--out DIR] [settings ...]
       fewstep compare --resume DIR [--budget 30m]

Is meta-learning worth it on these tasks? Trains and judges many ways to learn them on the same tasks and the same network:
no learning, classical models, joint training with and without fine-tuning, and the MAML family. Says which one to take, how
sure that is, and what would change it. The method is chosen on validation tasks; test tasks only report it.
"""


def main(argv: list[str]) -> int:
    from fewstep.application import problems, settings_of

    if not argv or argv[0] in ("-h", "--help"):
        lines = [USAGE, *(f"  {name:<12} {kind.__doc__}" for name, kind in problems().items())]
        lines += ["", "fewstep compare PROBLEM --help lists the settings."]
        say("\n".join(lines), json=not argv)
        return 0 if argv else 2
    directory, rest = taken("--resume", argv, "needs the folder of a comparison")
    if directory:
        budget, rest = taken("--budget", rest)
        more = {"budget_seconds": seconds_of(budget)} if budget else {}
        as_json = "--json" in rest
        if others := [word for word in rest if word != "--json"]:
            raise InputError(f"--resume takes the folder and --budget alone: all settings are in it. Leave {others[0]} out.")
        return work(lambda compare, options: compare.resume(directory, **options, **more), directory, as_json)
    name, *rest = argv
    preset, rest = taken("--preset", spread_ranges(rest))
    arguments = parse(_arguments(name, settings_of(name, preset or "default")), rest, f"fewstep compare {name}")
    out = arguments.out or str(free_folder(Path("comparisons"), name))
    options = {
        "budget_seconds": seconds_of(arguments.budget),
        "seeds": arguments.seeds,
        "margin": arguments.margin,
        "seed": arguments.seed,
        "command": " ".join(["fewstep compare", *argv]),
        "embeddings": arguments.embeddings,
    }
    say(printable(f"{name}: comparing within {arguments.budget} -> {out}"), json=True)
    begin = lambda compare, more: compare.compare(arguments.settings, out, **options, **more)  # noqa: E731
    return work(begin, out, arguments.json)


def work(begin: Any, out: str, as_json: bool) -> int:
    """Does the comparison and prints what it found."""
    prepare_jax()
    from fewstep import compare
    from fewstep.training.loop import Interrupted
    from fewstep.training.signals import terminated_as_interrupted

    try:
        with terminated_as_interrupted():
            found = begin(compare, {"partial": print_first})
    except (Interrupted, KeyboardInterrupt):
        say(f"Interrupted; what is done is kept. Go on with: {command_name()} compare --resume {out}", json=True)
        return 130
    except (OSError, MemoryError) as error:
        if not (told := resource_error(error, out)):
            raise
        raise TrainingError(f"{told} To go on: {command_name()} compare --resume {out}") from error
    if as_json:
        print(json.dumps(found))
    else:
        print_comparison(found)
        say(f"all figures: {out}/compare.json" + f"   page: {out}/compare.html" * (Path(out) / "compare.html").is_file())
        if found["run"] is None:
            return 0
        run = Path(out) / found["run"]["directory"]
        words = "" if "updates" in found["protocol"] else "--support FILE "  # a policy adapts by acting
        if "updates" not in found["protocol"] and not (run / "calibration.json").is_file():
            say(f"there was no time to calibrate the recommended run; this does it: {command_name()} resume {run}")
        say(f"the recommended run: {run}   next: {command_name()} adapt {run} {words}--out ADAPTED")
    return 0


def seconds_of(text: str) -> float:
    """'90s', '10m', '1.5h' or a plain number of seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?", text.strip())
    seconds = float(found.group(1)) * {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}[found.group(2)] if found else math.inf
    if seconds > MOST_SECONDS:
        raise InputError(f"--budget should be a time such as 90s, 10m or 2h, and at most a year, got {text!r}.")
    return seconds


def _arguments(name: str, settings: Any) -> type:
    """The dataclass of this command's words: its own, and the problem's settings without a prefix."""
    import tyro

    def option(kind: Any, help: str) -> Any:
        return Annotated[kind, tyro.conf.arg(help=help)]

    own = [
        ("budget", option(str, "time for all of it, such as 90s, 10m or 2h; kept within a tenth"), "10m"),
        ("seeds", option(int, "how often every method is trained"), 3),
        (
            "margin",
            option(float | None, "a difference in error that does not matter; by default 5 %% of the error without learning"),
            None,
        ),
        (
            "out",
            option(str | None, "folder for the comparison; the same command on the same folder goes on where it stopped"),
            None,
        ),
        (
            "embeddings",
            option(
                str,
                "of images: a table with a column `file` and a number in each other column, the embeddings of all photos by a "
                "network trained elsewhere; a probe on them is compared, too",
            ),
            "",
        ),
        ("seed", option(int, "decides the split of tasks and all held-out episodes"), 0),
        ("json", option(bool, "print one JSON object on stdout"), False),
        ("settings", Annotated[type(settings), tyro.conf.arg(name="")], settings),
    ]
    about = "Is meta-learning worth it here? Compare methods, say which to take. Its settings are those of fewstep train."
    return dataclasses.make_dataclass(f"Compare{name.title()}", own, namespace={"__doc__": about})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
