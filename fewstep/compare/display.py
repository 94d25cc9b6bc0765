"""What people see while a comparison goes on (floor 5): what is being done, how much is done, how long it will still take."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

SECONDS_A_LINE = 10.0
"""Where there is no terminal, so long passes between two lines."""


class Display:
    """A live line in a terminal, a line now and then elsewhere. Always on stderr."""

    def __init__(self, budget: float, spent: float, quiet: bool = False):
        self.quiet, self.started, self.budget = quiet, time.monotonic() - spent, budget
        self.done = self.total = 0
        self.left: float | None = None
        self._until, self._said, self._bar, self._task = 0.0, 0.0, None, None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        shown = self

        class Left(TextColumn):
            """The time that the plan still takes."""

            def render(self, task: Any) -> Any:
                return super().render(task) if shown.left is None else f"{shown.time_left} left"

        self._bar: Any = Progress(
            TextColumn("fittings"),
            TextColumn("{task.completed:.0f}/{task.fields[planned]}"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(),
            Left("of at most " + duration(budget)),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task("reading the data", total=None, planned="?")

    @property
    def spent(self) -> float:
        """Seconds since the comparison began, breaks left out."""
        return time.monotonic() - self.started

    @property
    def time_left(self) -> str:
        """What the plan still takes."""
        return duration(round(max(0.0, self._until - time.monotonic())))

    def plan(self, total: int, left: float) -> None:
        """So many fittings are planned in all, which take so many more seconds."""
        self.total, self.left, self._until = total, left, time.monotonic() + left
        self._show("")

    def step(self) -> None:
        """One more fitting is done."""
        self.done += 1
        self._show("")

    def say(self, text: str) -> None:
        """What is being done."""
        self._show(text)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def _show(self, text: str) -> None:
        if self._bar is not None:
            known = {"description": text} if text else {}
            total = self.total or None
            self._bar.update(self._task, completed=self.done, total=total, planned=total or "?", **known)
        elif not self.quiet and text and time.monotonic() - self._said > SECONDS_A_LINE:
            self._said = time.monotonic()
            ahead = f"  {self.time_left} left" if self.left is not None else ""
            counted = f"{self.done}/{self.total}" if self.total else f"{self.done}"
            print(f"[{duration(round(self.spent))}] fittings {counted}  {text}{ahead}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def rounded(seconds: float) -> str:
    """'45s' or '4m', as --budget takes it, rounded up."""
    return f"{math.ceil(seconds / 5) * 5}s" if seconds < 90 else f"{math.ceil(seconds / 60)}m"


def duration(seconds: float) -> str:
    """0.4 ms, 20 s, 4 min 51 s, 2 h 5 min."""
    if seconds < 0.9995:
        text = f"{1000 * seconds:.{2 if seconds < 0.01 else 0}f}"
        return f"{text.rstrip('0').rstrip('.') if '.' in text else text} ms" if seconds > 0 else "0 s"
    if seconds < 59.5:
        return f"{f'{seconds:.1f}'.removesuffix('.0') if seconds < 9.95 else round(seconds)} s"
    unit, large, small = (1, "min", "s") if seconds < 3599.5 else (60, "h", "min")
    whole, rest = divmod(round(seconds / unit), 60)
    return f"{whole} {large}" + f" {rest} {small}" * (rest > 0)
