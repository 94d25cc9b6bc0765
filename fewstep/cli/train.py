"""fewstep train PROBLEM: meta-train, evaluate, draw."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fewstep.cli.arguments import Together, command_name, parse, prepare_jax, say, spread_ranges
from fewstep.cli.dry_run import print_estimates, print_rates
from fewstep.cli.failures import resource_error
from fewstep.cli.output import print_evaluation
from fewstep.errors import InputError, TrainingError


def main(argv: list[str]) -> int:
    from fewstep.application import problems, settings_of
    from fewstep.recipe.variants import with_variants

    if not argv or argv[0] in ("-h", "--help"):
        lines = ["usage: fewstep train PROBLEM [--preset NAME] [--variant NAME,...] [--out RUN] [--seed N] [settings ...]", ""]
        lines += [f"  {name:<12} {settings.__doc__}" for name, settings in problems().items()]
        lines += ["", "fewstep train PROBLEM --help lists the settings; fewstep list the presets and variants."]
        say("\n".join(lines), json=not argv)
        return 0 if argv else 2
    name, *rest = argv
    preset, rest = taken("--preset", spread_ranges(rest))
    preset = preset or "default"
    known = settings_of(name, preset)
    variants, rest = taken("--variant", rest)
    defaults = with_variants(known, variants.split(",") if variants else ())
    arguments = parse(_arguments(name, defaults), rest, f"fewstep train {name}")
    return train(arguments, name, preset, variants)


def train(arguments: Any, name: str, preset: str, variants: str) -> int:
    prepare_jax()
    from fewstep import runs
    from fewstep.application import application_of_problem
    from fewstep.runs.config import several_candidates

    settings, owner = arguments.settings, application_of_problem(name)
    for option, given, capability in (
        ("--find-rate", arguments.find_rate, "rates"),
        ("--dry-run", arguments.dry_run, "estimates"),
        ("--processes", arguments.together.processes != 1, "processes"),
    ):
        if given and capability not in owner.capabilities:
            raise InputError(f"{option}: {name} knows no such thing. Leave it out.")
    if arguments.find_rate:
        return print_rates(arguments, name, preset, variants)
    if arguments.dry_run:
        return print_estimates(owner, settings, arguments.seed, arguments.json)
    devices = arguments.together.join()
    words = [name, *[preset] * (preset != "default"), *variants.split(",")]
    out = Path(arguments.out) if arguments.out else free_folder(Path("runs"), "-".join(filter(None, words)))

    def announce(problem) -> None:
        recipe = f"preset {preset}" + f", variant {variants}" * bool(variants)
        several = several_candidates(owner, settings)
        lengths = [f"{each.meta_steps} ({name})" for name, each in several.items()]
        steps = " and ".join(lengths) or problem.meta_steps
        say(f"{name}, {recipe}: {steps} meta-steps of {problem.meta_batch_size} tasks -> {out}", json=True)
        for line in owner.describe(problem):
            say(f"  {line}", json=True)

    def work():
        return runs.train(settings, out, seed=arguments.seed, preset=preset, announce=announce, **devices)

    return complete(work, out, arguments.json)


def complete(work: Callable[[], Any], out: str | Path, as_json: bool) -> int:
    """Does `work`, the training, which returns the run; then what follows every training: evaluation, pictures, a table."""
    from fewstep import plots
    from fewstep.training import multihost
    from fewstep.training.loop import Interrupted
    from fewstep.training.progress import working
    from fewstep.training.signals import terminated_as_interrupted

    go_on = f"{command_name()} resume {out}"
    try:
        run = work()
        if run is None:  # not the first of many processes
            return 0
        try:
            with terminated_as_interrupted():
                result = run.write_evaluation()
                with working("drawing pictures"):
                    pictures = plots.draw(run.directory)
        except KeyboardInterrupt:
            say(f"Interrupted; the training itself is done and saved. For the rest: {go_on}", json=True)
            return 130
    except Interrupted:
        if multihost.is_first():
            say(f"Interrupted; the run is saved. Go on with: {go_on}", json=True)
        multihost.shutdown()
        return 130
    except multihost.LostProcess as error:
        raise TrainingError(f"{error} Here: {go_on}") from error
    except (OSError, MemoryError, RuntimeError) as error:
        if not (told := resource_error(error, str(out))):
            raise
        raise TrainingError(f"{told} To go on: {go_on}") from error
    if as_json:
        print(json.dumps({"run": str(run.directory), "evaluation": result}))
    else:
        print_evaluation(result)
        say(f"pictures: {', '.join(str(path) for path in pictures)}")
    return 0


def taken(option: str, argv: list[str], needs: str = "needs a name; fewstep list shows them") -> tuple[str, list[str]]:
    """Takes an option with its value out of the words: it decides the defaults of all other settings. Of several, the last."""
    rest, value = [], ""
    words = iter(argv)
    for word in words:
        if word == option or word.startswith(f"{option}="):
            value = word.partition("=")[2] or next(words, "")
            if not value:
                raise InputError(f"{option} {needs}.")
        else:
            rest.append(word)
    return value, rest


def _arguments(name: str, settings: Any) -> type:
    """The dataclass of this command's words: its own, and the problem's settings without a prefix."""
    import tyro

    return dataclasses.make_dataclass(
        f"Train{name.title()}",
        [
            (
                "out",
                Annotated[str | None, tyro.conf.arg(help="folder for the run; by default the next free one under runs/")],
                None,
            ),
            ("seed", Annotated[int, tyro.conf.arg(help="decides everything random")], 0),
            (
                "dry_run",
                Annotated[bool, tyro.conf.arg(help="train nothing: say what a meta-step takes in memory and operations")],
                False,
            ),
            (
                "find_rate",
                Annotated[bool, tyro.conf.arg(help="train nothing: try inner rates, say which one to take, draw rates.png")],
                False,
            ),
            ("together", Annotated[Together, tyro.conf.arg(name="")], Together()),
            ("json", Annotated[bool, tyro.conf.arg(help="print one JSON object on stdout")], False),
            ("settings", Annotated[type(settings), tyro.conf.arg(name="")], settings),
        ],
        namespace={"__doc__": f"{type(settings).__doc__} --preset and --variant set several settings at once (fewstep list)."},
    )


def free_folder(folder: Path, name: str) -> Path:
    """The first of folder/name, folder/name-2, ... that is free."""
    number, path = 1, folder / name
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
