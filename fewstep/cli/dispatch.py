"""Commands that applications bring: found by the folder that is given, parsed, called."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fewstep.application import ADAPTED, Application, Command, application_of_adapted, applications, resolve
from fewstep.errors import InputError


def commands() -> dict[str, str]:
    """A line on each command that some application has, by name."""
    return {name: command.summary for found in reversed(applications()) for name, command in found.commands.items()}


def run(name: str, argv: list[str]) -> int:
    """Runs the command `name` of the application whose folder is given."""
    owners = [found for found in applications() if name in found.commands]
    asks_help = any(word in ("-h", "--help") for word in argv)
    if asks_help and not folder_of(argv) and len({found.commands[name].target for found in owners}) > 1:
        return print_help(name, owners)
    from fewstep.cli.arguments import parse

    owner = owner_of(name, argv, owners) if owners[0].commands[name].folder else owners[0]
    kind: Any = resolve(owner.commands[name].target)
    refuse_others_options(name, argv, kind, owner, owners)
    return parse(kind, argv, f"fewstep {name}")()


def owner_of(name: str, argv: list[str], owners: list[Application]) -> Application:
    """The application of the run or the adapted model among the words. Raises `InputError` if it does not have this command."""
    folder = folder_of(argv)
    if not folder:
        return owners[0]  # whose parser says what is missing
    if owners[0].commands[name].folder == "adapted" or (Path(folder) / ADAPTED).is_file():
        found = application_of_adapted(folder)
    else:
        from fewstep.runs.run import read_config

        found = read_config(folder)[1]
    if name not in found.commands:
        whose = ", ".join(problem for each in owners for problem in each.problems)
        raise InputError(f"{folder}: {name} is for {whose}; this is a model of {' or '.join(found.problems)}.")
    return found


def folder_of(argv: list[str]) -> str:
    """The word that is the command's first argument, not an option or its value; "" if there is none."""
    before = ["", *argv[:-1]]
    words = [word for word in argv if not word.startswith("-")]
    free = [word for word, last in zip(argv, before, strict=True) if not word.startswith("-") and is_no_option(last)]
    return next(iter(free or words), "")


def is_no_option(word: str) -> bool:
    """Whether the next word is no value of this one."""
    return not word.startswith("--") or "=" in word or word == "--json"


def refuse_others_options(name: str, argv: list[str], kind: Any, owner: Application, owners: list[Application]) -> None:
    """Raises `InputError` for an option that this command has for other applications alone."""
    known = options_of(kind)
    for word in {word.partition("=")[0] for word in argv if word.startswith("--")} - known:
        others = [each for each in owners if word in options_of(resolve(each.commands[name].target))]
        if others:
            whose = ", ".join(problem for each in others for problem in each.problems)
            raise InputError(f"{word} is for {whose}; {folder_of(argv)} is of {' or '.join(owner.problems)}.")


def options_of(kind: Any) -> set[str]:
    """The options of a command, as they are written."""
    return {"--help", *(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(kind))}


def print_help(name: str, owners: list[Application]) -> int:
    """The options of a command that differs between applications, one kind of problem after the other."""
    from fewstep.cli.arguments import parse, say

    by_target: dict[Command, list[str]] = {}
    for owner in owners:
        by_target.setdefault(owner.commands[name], []).extend(owner.problems)
    for command, problems in by_target.items():
        say(f"fewstep {name}, of {', '.join(problems)}:\n")
        try:
            parse(resolve(command.target), ["--help"], f"fewstep {name}")  # type: ignore[type-var]
        except SystemExit:
            say()
    return 0
