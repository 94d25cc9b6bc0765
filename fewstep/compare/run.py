"""A comparison from beginning to end: `compare(settings, directory)`, what `fewstep compare` calls.

Quick methods come first, so that there is a table to look at. Then a meta-step of each trained method is timed, the rest of the
budget is planned, and all methods are trained seed by seed: whenever it stops, all methods have the same seeds. What is fitted
is kept in the folder, and not fitted again when the comparison goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.application import problem_of
from fewstep.compare.report import write_report
from fewstep.compare.request import REQUEST, check, is_continued, make_request, read_request, spent_before
from fewstep.compare.runner import RECORD, Runner
from fewstep.compare.session import Session
from fewstep.errors import InputError
from fewstep.runs import new_directory, run_lock, settings_of, write_json
from fewstep.training.progress import Display


def compare(
    settings: Any,
    directory: str | Path,
    *,
    budget_seconds: float = 600.0,
    seeds: int = 3,
    margin: float | None = None,
    seed: int = 0,
    quiet: bool = False,
    command: str = "",
    embeddings: str = "",
    partial: Callable[[list[dict[str, Any]]], None] | None = None,
) -> dict[str, Any]:
    """Compares methods on the tasks of a Problem within a budget, writes `compare.json`, `compare.html` and the recommended run
    into `directory`, and returns what `compare.json` holds. If the directory holds the same comparison, it goes on; a greater
    budget tries the methods and seeds that were left out before, trained as long as the others.

    `margin` is a difference in error that does not matter (by default 5 % of the error without learning); `seed` decides the
    split and the held-out episodes, `seeds` is how often everything is trained. `embeddings` is a
    table of embeddings of photos by a network trained elsewhere (methods/embeddings.py). `partial` is shown the first scores.

    Methods for which there is no time, and methods that raise, are left out and named. Raises `InputError` for what cannot be
    compared, a leak between tasks, or if there was time for no two methods; `Interrupted` on SIGINT, SIGTERM or SIGHUP while an
    method is trained. What is fitted is kept whatever happens.
    """
    check(budget_seconds, seeds, margin)
    directory, request = Path(directory), make_request(settings, budget_seconds, seeds, margin, seed, command, embeddings)
    begun = is_continued(directory, request)
    display = Display(budget_seconds, spent_before(directory) if begun else 0.0, quiet)
    try:
        owner = problem_of(settings)[0]
        benchmarks = tuple(owner.benchmark(settings, seed, display.note, budget=budget_seconds, embeddings=embeddings))
        if not begun:
            new_directory(directory)
        with run_lock(directory):
            write_json(directory / REQUEST, request)
            session = Session(Runner(directory, benchmarks, display.say), display, budget_seconds, seeds)
            try:
                session.score_quick(partial)
                return write_report(session, session.trained_plan(), margin, command)
            except InputError:
                if not begun and next(directory.rglob(RECORD), None) is None:  # nothing is fitted
                    shutil.rmtree(directory)
                raise
            finally:
                if directory.is_dir():
                    session.keep_time()
    finally:
        display.close()


def resume(
    directory: str | Path,
    quiet: bool = False,
    partial: Callable[..., None] | None = None,
    budget_seconds: float | None = None,
) -> dict[str, Any]:
    """Goes on with the comparison in `directory`, with its own budget or a greater one. Raises `InputError` where there is
    none, or where that would run code that only its folder names."""
    request = read_request(Path(directory))
    options = {name: request[name] for name in ("budget_seconds", "seeds", "margin", "seed", "command")}
    options["embeddings"] = request.get("embeddings", "")
    options["budget_seconds"] = budget_seconds or options["budget_seconds"]
    settings = settings_of(request, Path(directory) / REQUEST)
    if code := problem_of(settings)[0].named_code(settings):
        raise InputError(
            f"{directory} compares in what {code} makes, and this would run that code as it is found here. If you "
            "trust it, give the same command again with the same --out: then it goes on."
        )
    return compare(settings, directory, quiet=quiet, partial=partial, **options)
