"""HTML and SVG as values: what is not markup already is escaped, and numbers are written for people (floor 5). Used by the page
of a comparison."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

VOID = {"meta", "link", "br", "hr"}
"""elements that have no end"""
Child = Any
"""markup, text, a number as text, or None for nothing; a list or tuple of these"""


class Markup(str):
    """Text that is HTML already. All other text is escaped where it becomes a child or an attribute."""


def element(name: str, /, *children: Child, **attributes: Any) -> Markup:
    """One element. An attribute's `_` stands for `-`, one at the end for nothing (`class_`); None leaves it out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    inside = "".join(f' {key}="{html.escape(written(value))}"' for key, value in given.items())
    return Markup(f"<{name}{inside}>" if name in VOID else f"<{name}{inside}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Children one after the other."""
    parts = []
    for child in children:
        if isinstance(child, list | tuple):
            parts.append(joined(*child))
        elif child is not None:
            parts.append(child if isinstance(child, Markup) else html.escape(written(child)))
    return Markup("".join(parts))


def written(value: Any) -> str:
    """An attribute's value, and a number that is text: of places in a drawing a hundredth is enough."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def known(value: Any) -> bool:
    """Whether it is a number that can be shown: not None, not NaN, not infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


MINUS = "−"
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def number(value: float, signed: bool = False) -> str:
    """Three significant digits; of very large and very small numbers two, and a power of ten."""
    sign = MINUS if value < 0 else "+" if signed and value > 0 else ""
    if value == 0:
        return "0"
    digits, power = f"{abs(value):.2e}".split("e")
    size = int(power)
    if not -4 <= size < 6:
        digits, power = f"{abs(value):.1e}".split("e")
        return f"{sign}{digits} × 10{str(int(power)).translate(RAISED)}"
    return f"{sign}{float(digits) * 10.0**size:,.{max(2 - size, 0)}f}"


def short(value: float) -> str:
    """A round number, for axes and counts: no zeros at its end, a million as 10⁶."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.6g}".replace("-", MINUS)
    digits, power = f"{value:.3e}".split("e")
    times = "" if float(digits) == 1 else f"{float(digits):g} × ".replace("-", MINUS)
    return f"{times}10{str(int(power)).translate(RAISED)}"


def datum(value: Any, signed: bool = False) -> Markup:
    """A number for people, with all its digits for machines; a dash where there is none."""
    if not known(value):
        return element("span", "–", class_="none")
    return element("data", number(value, signed), value=repr(value))


def interval(estimate: Mapping[str, Any] | None, signed: bool = False) -> Markup | None:
    """`{"mean", "low", "high"}` as a number with its interval; None where there is none."""
    if not estimate or not known(estimate.get("mean")):
        return None
    low, high = estimate.get("low"), estimate.get("high")
    shown = datum(estimate["mean"], signed)
    if not (known(low) and known(high)):
        return shown
    between = element("span", datum(low, signed), " to ", datum(high, signed), class_="between")
    return joined(shown, " ", between)


def duration(seconds: float) -> str:
    """0.4 ms, 20 s, 4 min 51 s, 2 h 5 min."""
    if seconds < 1:
        return f"{number(seconds * 1000)} ms" if seconds else "0 s"
    if seconds < 60:
        return f"{number(round(seconds, 1) if seconds < 10 else round(seconds))} s"
    if seconds < 3600:
        whole, rest = divmod(round(seconds), 60)
        return f"{whole} min" + f" {rest} s" * (rest > 0)
    whole, rest = divmod(round(seconds / 60), 60)
    return f"{whole} h" + f" {rest} min" * (rest > 0)


def counted(count: int, one: str, many: str | None = None) -> str:
    """1 task, 45 tasks."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
