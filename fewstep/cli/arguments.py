"""From words on the command line to a dataclass, by tyro; what is wrong is said in a line or two."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from fewstep.errors import InputError
from fewstep.storage.cache import cache_directory

Arguments = TypeVar("Arguments")
Steps = int | Literal["auto"]


@dataclass(frozen=True)
class Together:
    """What computes one training."""

    devices: int | Literal["all"] = "all"
    """the tasks of a meta-batch are split over so many devices (of each process); the same bits need the same number"""
    processes: int | Literal["auto"] = 1
    """so many processes train together, all started with the same words; auto: as many as the cluster says (docs/scaling.md)"""
    process: int | None = None
    """which of them this one is, from 0; process 0 writes"""
    coordinator: str | None = None
    """HOST:PORT of process 0, at which it awaits the others"""

    def join(self) -> dict[str, int]:
        """Finds the other processes. Returns what `runs.train` and `resume` are to be told of devices."""
        from fewstep.training import multihost

        multihost.join(self.processes, self.process, self.coordinator)
        return {} if self.devices == "all" else {"devices": self.devices}


def parse(kind: type[Arguments], argv: list[str], prog: str, default: Any = None) -> Arguments:
    """Parses `argv` into `kind`. Prints help and exits for --help; raises `InputError` for what it cannot use."""
    import tyro

    names = [word.partition("=")[0] for word in argv if re.match(r"--[a-z]", word)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{repeated[0]} is given twice. Several values follow one another, as in --inputs year height.")
    options = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=argv, prog=prog, **options)
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise InputError(_in_short(complaint.getvalue(), prog)) from None


def _in_short(complaint: str, prog: str) -> str:
    """tyro's framed explanation as one line: what is wrong, the nearest option, where to read more."""
    lines = [re.sub(r"^[│┃]\s?|\s*[│┃]$", "", line).strip() for line in complaint.splitlines()]
    lines = [line for line in lines if line and line[0] not in "╭╰─━"]
    if len(lines) > 1 and set(lines[1]) == {"-"}:  # where the terminal has no other letters, the title of the frame
        lines = [line for line in lines[2:] if set(line) != {"-"}]
    more = ("Argument helptext", "Perhaps", "For full", "Similar")
    what = " ".join(lines[: next((i for i, line in enumerate(lines) if line.startswith(more)), 2)])
    what = re.sub(r"\[/?bold\]", "", what)
    if len(what) > 400:
        what = f"{what[:200]} ... (a pattern such as 'units/*.csv' has to stand in quotes)"
    near = re.search(r"^Perhaps you meant:\n(--[a-z0-9-]+)", "\n".join(lines), re.MULTILINE)
    hint = f" Did you mean {near.group(1)}?" if near else ""
    return f"{what.rstrip('.')}.{hint} See {prog} --help."


def choose_steps(text: str) -> tuple[Steps, ...]:
    """'0,1,5,auto' as (0, 1, 5, 'auto')."""
    try:
        steps: tuple[Steps, ...] = tuple("auto" if part.strip() == "auto" else int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--steps should be numbers of adaptation steps such as 0,1,5,10, or auto, got {text!r}.") from None
    numbers = [step for step in steps if step != "auto"]
    if not steps or (numbers and (min(numbers) < 0 or max(numbers) > 10_000)):
        raise InputError(f"--steps should lie between 0 and 10000, got {text!r}.")
    return steps


def one_choice_of_steps(text: str | None) -> Steps | None:
    """What `--steps` of a command says that adapts once: one number, or auto; None if it is not given."""
    if text is None:
        return None
    first, *others = choose_steps(text)
    if others:
        raise InputError(f"--steps should be one number of adaptation steps, or auto, got {text!r}.")
    return first


def spread_ranges(argv: list[str]) -> list[str]:
    """`--shots 3:50` as `--shots 3 50`."""
    words: list[str] = []
    for word in argv:
        option, equals, value = word.partition("=")
        if option == "--shots" and equals:
            words.append(option)
            word = value
        asked = bool(words) and words[-1] == "--shots"
        found = re.fullmatch(r"(\d+):(\d+)", word) if asked else None
        if asked and not found and not re.fullmatch(r"\d+|-.*", word):
            raise InputError(f"--shots: expected a number of examples, or a range such as 1:5, got {word!r}.")
        words += found.groups() if found else [word]
    return words


def prepare_jax() -> None:
    """Settings of JAX that a command wants and a library must not force: cores as devices, a lasting compilation cache."""
    import jax

    from fewstep.training.devices import use_cpu_cores, use_gpu_libraries

    use_cpu_cores()
    use_gpu_libraries()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_directory("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def command_name() -> str:
    """How the person at the terminal can call `fewstep`: `./train` runs it from an environment that is on no PATH."""
    return os.environ.get("FEWSTEP_COMMAND", "fewstep")


def say(text: str = "", json: bool = False) -> None:
    """Prints for people: on stdout, or on stderr where stdout is for one JSON object."""
    print(text, file=sys.stderr if json else sys.stdout, flush=True)


def say_notes(notes: Any) -> None:
    """Each note for people, a line."""
    for note in notes:
        say(f"note: {note}", json=True)
