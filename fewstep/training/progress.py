"""The log of a run, one JSON record per line in `metrics.jsonl`, and progress displays for training and comparisons."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np

from fewstep.training.metrics import Copies

SECONDS_A_LINE = 20.0
"""Minimum time between two progress lines without a terminal."""
Part = TypeVar("Part")


RISEN = 5.0
"""A meta-loss has risen if it ends this many standard deviations of its noise above its start or its minimum."""
LEAST_RECORDS = 10
"""Shorter logs are not checked."""


def risen(losses: Sequence[float], steps: Sequence[int]) -> str:
    """A message if the meta-losses of a log, at these meta-steps, rise; "" otherwise.

    Compares medians over a tenth of the records, at least three: the last with the first and with the lowest. The standard
    deviation of the noise is estimated from the median absolute difference of successive records, divided by √2.
    """
    values = np.asarray(losses, float)
    if values.size < LEAST_RECORDS or not np.isfinite(values).all():
        return ""
    width = max(3, values.size // 10)
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
    margin = RISEN * 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)
    first, lowest, last = smooth[0], smooth.min(), smooth[-1]
    if last > first + margin:
        return f"the meta-loss has risen over the training, from {first:.3g} to {last:.3g}"
    if last > lowest + margin and last - lowest > 0.1 * (first - lowest):
        at = steps[int(smooth.argmin()) + width // 2]
        return f"the meta-loss fell to {lowest:.3g} about meta-step {at} and has risen to {last:.3g} since"
    return ""


class MetricsFile:
    """`metrics.jsonl`, to which records are appended; `position` is its length in bytes, which checkpoints store.

    `metrics.csv` and TensorBoard's event file are copies of it (`metrics.py`).
    """

    def __init__(self, path: Path, position: int | None = None):
        self.path = path
        if position is not None and path.exists():
            with path.open("r+b") as file:  # records after the checkpoint are written again
                file.truncate(min(position, path.stat().st_size))
        self._file = path.open("a", encoding="utf-8")
        self._copies = Copies(path.parent, read_metrics(path))

    @property
    def position(self) -> int:
        return self._file.tell()

    def write(self, record: dict[str, Any]) -> None:
        plain = {key: _plain(value) for key, value in record.items()}
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()
        self._copies.add(plain)

    def back(self, position: int) -> None:
        """Removes the records after `position`, for a rollback."""
        self._file.truncate(position)
        self._file.seek(position)
        self._copies.rewrite(read_metrics(self.path))

    def close(self) -> None:
        self._file.close()
        self._copies.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records of a `metrics.jsonl`. Lines that are no records are skipped, such as a last line truncated by a crash."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [record for record in records if isinstance(record, dict)]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


EXPLODED = 100.0
"""A meta-loss this many times its minimum triggers a warning: it is finite, but the run has lost what it had learned."""


class Progress:
    """Progress of a training on stderr: a live bar in a terminal, otherwise a line per record."""

    def __init__(
        self,
        total: int,
        done: int = 0,
        stream: TextIO | None = None,
        quiet: bool = False,
        unit: str = "meta-step",
    ):
        self.total, self.quiet, self.unit = total, quiet, unit
        self.stream = stream or sys.stderr
        self._first: tuple[float, int] | None = None  # when the first call returned; time before it is compilation
        self._last_line_time = time.monotonic()  # when the last line was written
        self._lowest, self._warned = math.inf, False
        self._bar = self._task = None
        if quiet:
            return
        if not self.stream.isatty():
            begins = f"going on from {unit} {done} of {total}; " * bool(done)
            print(
                f"{begins}compiling ..." if done < total else f"{unit} {done}/{total}: trained already",
                file=self.stream,
                flush=True,
            )
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        def whole() -> Column:  # a narrow terminal cuts what stands between
            return Column(no_wrap=True, min_width=7)

        self._bar = Bar(
            TextColumn(unit),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(table_column=whole()),
            TextColumn("left"),
            TimeRemainingColumn(table_column=whole()),
            console=Console(file=self.stream),
        )
        self._bar.start()
        self._task = self._bar.add_task("compiling", total=total, completed=done)

    def advance(self, done: int) -> None:
        """Updates the bar between two records."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=None if self._first else "training")
        elif not self.quiet and time.monotonic() - self._last_line_time > SECONDS_A_LINE:
            self._line(done)
        self._first = self._first or (time.monotonic(), done)

    def record(self, record: dict[str, Any], parts: Sequence[str]) -> None:
        """Shows a record of the log, as these `parts` of text."""
        done = record["meta_step"]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description="  ".join(parts))
        elif not self.quiet:
            self._line(done, *parts)
        if "meta_loss" in record:
            self._watch(done, record["meta_loss"])

    def _line(self, done: int, *parts: str) -> None:
        since, start = self._first or (time.monotonic(), done)
        left = (time.monotonic() - since) / max(done - start, 1) * (self.total - done)
        message = [f"{self.unit} {done}/{self.total}", *parts, *[f"{left:.0f} s left"] * (done > start)]
        print("  ".join(message), file=self.stream, flush=True)
        self._last_line_time = time.monotonic()

    def _watch(self, done: int, meta_loss: float) -> None:
        """Warns once if the meta-loss explodes. Negative losses are log-likelihoods, for which ratios are meaningless."""
        self._lowest = min(self._lowest, meta_loss)
        if self.quiet or self._warned or not meta_loss > EXPLODED * self._lowest > 0:
            return
        self._warned = True
        text = (
            f"warning: the meta-loss has grown from {self._lowest:.3g} to {meta_loss:.3g} at meta-step {done}. "
            "The best checkpoint is kept; if it does not come back, try a smaller --outer-rate or --inner-rate."
        )
        self.say(text)

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text)
        elif not self.quiet:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def working(what: str, quiet: bool = False) -> Iterator[None]:
    """Prints on stderr what this block does, in a terminal with the elapsed time."""
    if quiet:
        yield
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress as Bar
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            bar.add_task(what, total=None)
            yield
    else:
        print(f"{what} ...", file=sys.stderr, flush=True)
        yield


def watched(parts: Sequence[Part], what: str, size: int) -> Iterator[Part]:
    """Yields `parts`, of `size` items each, and shows on stderr how many are done and the remaining time: as a transient bar in
    a terminal, otherwise as occasional lines."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(parts, f"{what}, {size} at a time", console=Console(stderr=True), transient=True)
        return
    started = printed = time.monotonic()
    for number, part in enumerate(parts):
        if number == 1:
            started = time.monotonic()  # in the first, programs were compiled
        elif number and time.monotonic() - printed > SECONDS_A_LINE:
            printed = time.monotonic()
            left = (printed - started) / (number - 1) * (len(parts) - number)
            print(f"{what}: {number * size} of {len(parts) * size}  {left:.0f} s left", file=sys.stderr, flush=True)
        yield part


SECONDS_A_LINE_OF_COMPARISON = 10.0
"""Minimum time between two lines without a terminal."""


class Display:
    """Progress of a comparison on stderr: a live line in a terminal, otherwise occasional lines."""

    def __init__(self, budget: float, spent: float, quiet: bool = False):
        self.quiet, self.started, self.budget = quiet, time.monotonic() - spent, budget
        self.done = self.total = 0
        self.left: float | None = None
        self._until, self._last_line_time, self._bar, self._task = 0.0, 0.0, None, None
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
        """Remaining time of the plan."""
        return duration(round(max(0.0, self._until - time.monotonic())))

    def plan(self, total: int, left: float) -> None:
        """Sets the planned number of fits and the remaining seconds."""
        self.total, self.left, self._until = total, left, time.monotonic() + left
        self._show("")

    def step(self) -> None:
        """Counts one more finished fit."""
        self.done += 1
        self._show("")

    def say(self, text: str) -> None:
        """Shows what is being done."""
        self._show(text)

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def _show(self, text: str) -> None:
        if self._bar is not None:
            known = {"description": text} if text else {}
            total = self.total or None
            self._bar.update(self._task, completed=self.done, total=total, planned=total or "?", **known)
        elif not self.quiet and text and time.monotonic() - self._last_line_time > SECONDS_A_LINE_OF_COMPARISON:
            self._last_line_time = time.monotonic()
            ahead = f"  {self.time_left} left" if self.left is not None else ""
            counted = f"{self.done}/{self.total}" if self.total else f"{self.done}"
            print(f"[{duration(round(self.spent))}] fittings {counted}  {text}{ahead}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def rounded(seconds: float) -> str:
    """Formats seconds as --budget expects them, rounded up: '45s' or '4m'."""
    return f"{math.ceil(seconds / 5) * 5}s" if seconds < 90 else f"{math.ceil(seconds / 60)}m"


def duration(seconds: float) -> str:
    """Formats seconds for people: 0.4 ms, 20 s, 4 min 51 s, 2 h 5 min."""
    if seconds < 0.9995:
        text = f"{1000 * seconds:.{2 if seconds < 0.01 else 0}f}"
        return f"{text.rstrip('0').rstrip('.') if '.' in text else text} ms" if seconds > 0 else "0 s"
    if seconds < 59.5:
        return f"{f'{seconds:.1f}'.removesuffix('.0') if seconds < 9.95 else round(seconds)} s"
    unit, large, small = (1, "min", "s") if seconds < 3599.5 else (60, "h", "min")
    whole, rest = divmod(round(seconds / unit), 60)
    return f"{whole} {large}" + f" {rest} {small}" * (rest > 0)
