"""Small pictures of a comparison as inline SVG, drawn by hand since no charting library fits into one offline file.

Each is 340 units wide, so that its text is readable on a phone, where it is nearly as wide as the screen. Colors are
classes of page.css, which knows light, dark and print. What a mark is stands in its `<title>`, which browsers show under
the pointer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fewstep.compare.page.html import Markup, element, joined, number, short

WIDTH, HEIGHT = 340.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 10.0, 22.0, 38.0
"""margins of a chart with axes"""
CHARACTER = 5.9
"""about the width of one, of a label"""
MOST_LETTERS = int((WIDTH - LEFT) / CHARACTER)
"""of a title that is as long as a chart is wide"""
MARKS = ("circle", "square", "triangle", "diamond")
"""of lines, by their order: not by color alone"""

FAR = 20.0
"""so many times as high as what the others are like is off the scale of lines"""


class Scale(NamedTuple):
    """From values to places: a line of it from (low, start) to (high, end), of logarithms by choice."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within it, about so many."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for leading in ((1, 2, 5), (1, 3), (1,)):
                found = [each * 10.0**power for power in decades for each in leading]
                found = [each for each in found if self.low * 0.999 <= each <= self.high * 1.001]
                if len(found) <= count + 2:
                    return found
            return found[:: math.ceil(len(found) / count)]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(place * step, 12) for place in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale_of(values: Sequence[float], start: float, end: float, zero: bool = True) -> Scale:
    """A scale that holds all values: logarithmic where they are positive and span more than a factor of 20; else from zero
    where that is not far below them."""
    low, high = min(values), max(values)
    if low > 0 and high > 20 * low:
        return Scale(low / 1.15, high * 1.15, start, end, log=True)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    bottom = 0.0 if zero and 0 <= low <= 0.6 * high else low - room
    return Scale(bottom, high + room, start, end)


def top_of(values: Sequence[float], level: float = 0.0) -> float:
    """The largest that a picture of `values` has room for: what is `FAR` times as high as most of them stands at its edge."""
    in_order = sorted(values)
    return in_order[-1] if in_order[0] < 0 else FAR * max(in_order[len(in_order) // 2], level)


def svg(width: float, height: float, label: str, *children: Markup | list[Markup] | None, class_: str = "chart") -> Markup:
    return element("svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_=class_)


def text(x: float, y: float, words: str, class_: str | None = None, anchor: str | None = None) -> Markup:
    return element("text", words, x=x, y=y, class_=class_, text_anchor=anchor)


def cut(words: str) -> str:
    """As much of a title as a chart is wide."""
    return words if len(words) <= MOST_LETTERS else words[: MOST_LETTERS - 1] + "…"


def rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def mark(shape: str, x: float, y: float, class_: str, title: str | None = None, size: float = 4.0) -> Markup:
    """A dot at (x, y) that tells its `title`."""
    told = element("title", title) if title else None
    if shape == "circle":
        return element("circle", told, cx=x, cy=y, r=size, class_=class_)
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }[shape]
    points = " ".join(f"{x + size * dx:.2f},{y + size * dy:.2f}" for dx, dy in corners)
    return element("polygon", told, points=points, class_=class_)


def frame(y: Scale, ticks: Sequence[tuple[float, float]], x_title: str, y_title: str, upright: bool = False) -> Markup:
    """Axes, their grid and what they are of; `ticks` are (value, place) along x, of which those are written that have room. The
    vertical axis has its title above it, so that nobody turns their head."""
    right, floor, parts = WIDTH - RIGHT, y.start, []
    for value in y.ticks():
        parts += [rule(LEFT, y(value), right, y(value), "grid"), text(LEFT - 6, y(value) + 4, short(value), "tick", "end")]
    last = -math.inf
    for value, place in ticks:
        half = len(short(value)) * CHARACTER / 2
        if place - half > last + 5 and place + half <= WIDTH:
            parts += [rule(place, TOP, place, floor, "grid")] * upright
            parts.append(text(place, floor + 16, short(value), "tick", "middle"))
            last = place + half
    titles = text(2, 12, cut(y_title), "axis-title"), text(right, floor + BOTTOM - 4, cut(x_title), "axis-title", "end")
    return joined(titles, parts, rule(LEFT, floor, right, floor, "axis"))


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    looks: Mapping[str, str],
    x_title: str,
    y_title: str,
    label: str,
    level: tuple[str, float] | None = None,
) -> Markup:
    """Lines by name through their (x, y), in the class that `looks` gives each; `level` is one more (name, y), as a thin line,
    where it does not squeeze the others. x is logarithmic, as numbers of shots, steps and tasks want it; 0 has room there.
    What is `FAR` times as high as most of it (a method that diverges) stands at the upper edge, its number in its tooltip."""
    all_heights = [y for line in series.values() for _, y in line]
    top = top_of(all_heights, level[1] if level else 0.0)
    heights = [min(y, top) for y in all_heights]
    places = sorted({x for line in series.values() for x, _ in line})
    if level is not None and not 0 <= level[1] <= 1.6 * max(heights):
        level = None
    shift = 0.0 if places[0] > 0 else 1.0
    across = Scale(places[0] + shift, max(places[-1], 1.01 * places[0]) + shift, LEFT + 8, WIDTH - RIGHT - 8, log=True)
    x = lambda value: across(value + shift)  # noqa: E731
    y = scale_of(heights + ([level[1]] if level else []), HEIGHT - BOTTOM, TOP)
    parts = [frame(y, [(value, x(value)) for value in places], x_title, y_title)]
    if level:
        parts.append(rule(LEFT, y(level[1]), WIDTH - RIGHT, y(level[1]), "level"))
        parts.append(text(WIDTH - RIGHT, y(level[1]) + (12 if y(level[1]) < TOP + 12 else -4), cut(level[0]), "note", "end"))
    for order, (name, line) in enumerate(series.items()):
        look = looks[name]
        way = " ".join(f"{x(at):.2f},{y(min(height, top)):.2f}" for at, height in line)
        parts.append(element("polyline", points=way, class_=f"line {look}"))
        for at, height in line:
            title = f"{name}, {short(at)}: {number(height)}"
            parts.append(mark(MARKS[order % len(MARKS)], x(at), y(min(height, top)), f"dot {look}", title))
        if gone := [at for at, height in line if height > top]:
            parts.append(text(x(gone[-1]) + 8, y(top) + 4, "off the scale", "note"))
    return svg(WIDTH, HEIGHT, label, parts)


def scatter(points: Sequence[tuple[float, float, str]], look: str, x_title: str, y_title: str, label: str) -> Markup:
    """Points (x, y, title) on two equal scales, with the line where both are the same."""
    x = scale_of([value for point in points for value in point[:2]], LEFT, WIDTH - RIGHT)
    floor = TOP + WIDTH - LEFT - RIGHT
    y = x._replace(start=floor, end=TOP)
    parts = [frame(y, [(value, x(value)) for value in x.ticks()], x_title, y_title, upright=True)]
    parts.append(rule(LEFT, floor, WIDTH - RIGHT, TOP, "level"))
    parts += [mark("circle", x(a), y(b), f"dot {look}", title, 4.5) for a, b, title in points]
    return svg(WIDTH, floor + BOTTOM, label, parts)


class Cost(NamedTuple):
    """A method as a picture of costs shows it."""

    name: str
    cost: float
    error: float
    low: float
    high: float
    look: str
    title: str


def costs(methods: Sequence[Cost], x_title: str, y_title: str, label: str) -> Markup:
    """Errors, with intervals, against costs on a logarithmic axis; what costs nothing stands at its left end. Names stand where
    there is room for them, those of the first methods first."""
    floor = 300.0 - BOTTOM
    paid, free = [method.cost for method in methods if method.cost > 0] or [1.0], any(method.cost <= 0 for method in methods)
    across = Scale(min(paid), max(max(paid), 10 * min(paid)), LEFT + (40 if free else 12), WIDTH - RIGHT - 16, log=True)
    x = lambda cost: across(cost) if cost > 0 else LEFT + 12  # noqa: E731
    top = top_of([method.error for method in methods])
    near = [value for method in methods if method.error <= top for value in (method.error, method.low, min(method.high, top))]
    scale = scale_of(near, floor, TOP, zero=False)
    y = lambda error: scale(min(max(error, scale.low), scale.high))  # noqa: E731
    ticks = [(0.0, x(0.0))] * free + [(value, across(value)) for value in across.ticks(3)]
    parts, named = [frame(scale, ticks, x_title, y_title)], []
    taken = [(x(method.cost) - 5, y(method.error) - 5, x(method.cost) + 5, y(method.error) + 5) for method in methods]
    for method in methods:
        place = x(method.cost), y(method.error)
        parts.append(rule(place[0], y(method.low), place[0], y(method.high), f"whisker {method.look}"))
        parts.append(mark("circle", *place, f"dot {method.look}", method.title, 4.5))
        found = room_for(method.name, place, taken, floor)
        if found is not None:
            anchor, at, box = found
            taken.append(box)
            named.append(text(*at, method.name, f"name {method.look}", anchor))
    return svg(WIDTH, floor + BOTTOM, label, parts, named)


Box = tuple[float, float, float, float]


def room_for(
    name: str, place: tuple[float, float], taken: Sequence[Box], floor: float
) -> tuple[str, tuple[float, float], Box] | None:
    """(anchor, place, box) of a label beside a mark where no other box is and no edge cuts it off; None where there is none."""
    width = len(name) * CHARACTER
    for dx, dy in ((8, 4), (-8, 4), (6, -7), (6, 14), (-6, -7), (-6, 14)):
        x, y = place[0] + dx, place[1] + dy
        left = x if dx > 0 else x - width
        box = (left, y - 9, left + width, y + 2)
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= TOP - 6 and box[3] <= floor
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            return "start" if dx > 0 else "end", (x, y), box
    return None


WHISKER = 150.0
"""width of a whisker in the table"""


def whisker(low: float, middle: float, high: float, scale: Scale, band: tuple[float, float] | None, look: str) -> Markup:
    """One method's error with its interval, and the band of what differs from the recommended method by less than the
    margin."""
    inside = lambda value: min(max(scale(value), 1.0), WHISKER - 1)  # noqa: E731
    parts = [
        rule(inside(low), 10, inside(high), 10, f"whisker {look}"),
        mark("circle", inside(middle), 10, f"dot {look}", size=3.4),
    ]
    if band is not None:
        left, right = map(inside, band)
        parts.insert(0, element("rect", x=left, y=0, width=right - left, height=20, class_="band"))
    return element("svg", parts, viewBox=f"0 0 {WHISKER:g} 20", class_="in-table", aria_hidden="true")


def whisker_axis(scale: Scale) -> Markup:
    """The scale of the whiskers below it."""
    parts: list[Markup] = []
    last = -math.inf
    for value in scale.ticks(3):
        half = len(short(value)) * CHARACTER / 2
        place = min(max(scale(value), half), WHISKER - half)
        if place - half > last + 8:
            parts += [text(place, 11, short(value), "tick", "middle"), rule(scale(value), 14, scale(value), 18, "axis")]
            last = place + half
    return element("svg", parts, viewBox=f"0 0 {WHISKER:g} 18", class_="in-table", aria_hidden="true")
