"""HTML and SVG as values: what is not markup already is escaped, and numbers are written for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from markupsafe import Markup, escape

Child = Any
"""markup, text, a number as text, or None for nothing; a list or tuple of these"""


def element(name: str, /, *children: Child, **attributes: Any) -> Markup:
    """One element. An attribute's `_` stands for `-`, one at the end for nothing (`class_`); None leaves it out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    inside = "".join(f' {key}="{escape(written(value))}"' for key, value in given.items())
    return Markup(f"<{name}{inside}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Children one after the other."""
    parts = []
    for child in children:
        if isinstance(child, list | tuple):
            parts.append(joined(*child))
        elif child is not None:
            parts.append(child if isinstance(child, Markup) else escape(written(child)))
    return Markup("".join(parts))


def written(value: Any) -> str:
    """An attribute's value, and a number that is text: of places in a drawing a hundredth is enough."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def known(value: Any) -> TypeGuard[float]:
    """Whether it is a number that can be shown: not None, not NaN, not infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


MINUS = "−"
LARGE = 1e6
"""from here on numbers are told by a power of ten"""
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def number(value: float) -> str:
    """Three significant digits at most; of very large and very small numbers two, and a power of ten."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")
    if 1e-4 <= abs(rounded) < LARGE:
        return fixed(rounded, max(2 - math.floor(math.log10(abs(rounded))), 0), trimmed=True)
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.replace('-', MINUS)} × 10{str(int(power)).translate(RAISED)}"


def fixed(value: float, decimals: int, signed: bool = False, trimmed: bool = False) -> str:
    """So many decimals, by choice with a plus, and without zeros at the end."""
    text = f"{value:{'+' if signed and value else ''},.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if trimmed and "." in text else text).replace("-", MINUS)


def short(value: float) -> str:
    """A round number, for axes and counts: no zeros at its end, a million as 10⁶."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.6g}".replace("-", MINUS)
    digits, power = f"{value:.3e}".split("e")
    times = "" if float(digits) == 1 else f"{float(digits):g} × ".replace("-", MINUS)
    return f"{times}10{str(int(power)).translate(RAISED)}"


def datum(value: Any, decimals: int | None = None, signed: bool = False) -> Markup:
    """A number for people, with all its digits for machines; a dash where there is none."""
    if not known(value):
        return element("span", "–", class_="none")
    return element("data", number(value) if decimals is None else fixed(value, decimals, signed), value=repr(value))


def decimals_of(size: float) -> int:
    """So many decimals show two digits of what is of this size."""
    return min(max(1 - math.floor(math.log10(size)), 0), 8) if size > 0 else 3


def interval(estimate: Mapping[str, Any] | None, signed: bool = False) -> Markup | None:
    """`{"mean", "low", "high"}` as a number with its interval, to two digits of its width; None where there is no number."""
    if not estimate or not known(estimate.get("mean")):
        return None
    mean, low, high = (estimate.get(part) for part in ("mean", "low", "high"))
    if not (known(low) and known(high)):
        return datum(mean)
    decimals = decimals_of(high - low)
    if max(abs(low), abs(high)) >= LARGE:
        return joined(datum(mean), " ", element("span", datum(low), " to ", datum(high), class_="between"))
    between = datum(low, decimals, signed), " to ", datum(high, decimals, signed)
    return joined(datum(mean, decimals, signed), " ", element("span", between, class_="between"))


def counted(count: int, one: str, many: str | None = None) -> str:
    """1 task, 45 tasks."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
