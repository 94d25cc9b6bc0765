"""Figures of few-shot image classification: episodes, accuracy, reliability, confusion matrix."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np

from fewstep.plots.style import AUTO, BAND, BEFORE, NOTE, SUPPORT, TRAINED, axes_of, drawable

RIGHT, WRONG = "#228833", "#cc3311"
MOST_SUPPORT, MOST_QUERIES, MOST_ROWS, MOST_EPISODES = 5, 8, 20, 3
"""So many support and query images of a class are shown; so many rows, one for each class, and episodes on a page."""
EDGE, NAME, IMAGE, PITCH, GAP, MORE, HEAD = 0.25, 1.45, 0.62, 0.74, 0.3, 0.62, 0.7
"""Inches on a page: its margin; a class's name; an image; from one image to the next; from support to query set;
"+ 3 more"; what stands above the first row."""
SMALL, LINE = 6.5, 0.105
"""The letters under a query, in points, and their lines, in inches."""
NO_COUNTS, NO_NAMES = 30, 100
"""A confusion matrix of more classes has no counts, and of still more has not every name."""


def episodes(contents: dict[str, Any]) -> Any:
    """A page of unseen episodes: a row for each class, its support set at left, its queries and their fate at right."""
    shown = contents["shown"]
    if not shown or shown.get("kind") != "images" or not shown["episodes"]:
        return None
    import matplotlib.pyplot as plt

    ways = max(len(episode["classes"]) for episode in shown["episodes"])
    page = shown["episodes"][: max(1, min(MOST_EPISODES, MOST_ROWS // ways))]
    blocks = [_rows(episode) for episode in page]
    titles = [f"episode {number + 1}: {episode['title']}" for number, episode in enumerate(page)]
    note = "✓ right    ✗ wrong: taken for the class named    %: probability of the class predicted\n"
    note += f"at most {MOST_ROWS} classes, {MOST_SUPPORT} support and {MOST_QUERIES} query images of a class are shown"
    rows = [row for block in blocks for row in block]
    queries_at = EDGE + NAME + GAP + PITCH * max(len(row["support"]) for row in rows)
    queries_at += MORE * any(row["more_support"] for row in rows)
    more_at = queries_at + PITCH * max(len(row["queries"]) for row in rows)
    ends = [more_at + MORE * any(row["more"] for row in rows), EDGE + max(_width(line, 8) for line in note.splitlines())]
    width = EDGE + max(*ends, *(EDGE + _width(title, 11, "bold") for title in titles))
    tops = EDGE + np.cumsum([0.0, *(HEAD + sum(row["height"] for row in block) for block in blocks)])
    height = tops[-1] + 0.3 + EDGE
    figure: Any = plt.figure(figsize=(width, height))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], frame_on=False)  # inches
    words = {"fontsize": 8, "va": "center", "color": NOTE, "parse_math": False}
    ink = contents["config"].get("problem") == "omniglot"
    for block, title, top in zip(blocks, titles, tops[:-1], strict=True):
        axis.text(EDGE, top + 0.25, title, **words | {"fontsize": 11, "color": SUPPORT, "weight": "bold"})
        axis.text(EDGE + NAME, top + HEAD - 0.12, "support set", **words)
        axis.text(queries_at, top + HEAD - 0.12, "query set", **words)
        for place, row in enumerate(block):
            y = top + HEAD + sum(above["height"] for above in block[:place])
            axis.text(EDGE, y + IMAGE / 2, fitted(row["name"], NAME - 0.12, 8, 3), **words | {"color": SUPPORT})
            for number, image in enumerate(row["support"]):
                _image(axis, pixels(image, ink), EDGE + NAME + number * PITCH, y, BEFORE, 0.8)
            axis.text(queries_at - GAP - MORE, y + IMAGE / 2, row["more_support"], **words | {"fontsize": 7})
            for number, (image, caption, right) in enumerate(row["queries"]):
                x, color = queries_at + number * PITCH, RIGHT if right else WRONG
                _image(axis, pixels(image, ink), x, y, color, 1.4 if right else 3.0)
                below = {"fontsize": SMALL, "va": "top", "ha": "center", "color": color, "linespacing": 1.05}
                axis.text(x + IMAGE / 2, y + IMAGE + 0.045, caption, **words | below)
            axis.text(more_at, y + IMAGE / 2, row["more"], **words | {"fontsize": 7})
    axis.text(EDGE, tops[-1] + 0.2, note, **words)
    return figure


def _rows(episode: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page says of each class; a query is (image, what stands under it, whether it is right)."""
    rows, names = [], episode["classes"]
    taken = [fitted(name, PITCH - 0.06, SMALL, 2) for name in names]
    last = [fitted(name.split("/")[-1], PITCH - 0.06, SMALL, 2) for name in names]
    if any("…" in name for name in taken) and len(set(last)) == len(names):
        taken = last  # shorter without folders, and still told apart
    for place, support in enumerate(episode["support"][:MOST_ROWS]):
        queries = []
        for query in (query for query in episode["queries"] if query["truth"] == place):
            right, chance = query["predicted"] == place, f"{100 * query['probability']:.0f} %"
            queries.append((query["image"], f"✓ {chance}" if right else f"✗ {chance}\n{taken[query['predicted']]}", right))
        shown, left_out = queries[:MOST_QUERIES], queries[MOST_QUERIES:]
        lost = sum(not right for *_, right in left_out)
        row = {"name": names[place], "support": support[:MOST_SUPPORT], "queries": shown}
        row["more_support"] = f"+ {len(support) - MOST_SUPPORT} more" if len(support) > MOST_SUPPORT else ""
        row["more"] = f"+ {len(left_out)} more" + f"\n({lost} wrong)" * (lost > 0) if left_out else ""
        row["height"] = IMAGE + 0.12 + LINE * max((caption.count("\n") + 1 for _, caption, _ in shown), default=0)
        rows.append(row)
    return rows


def pixels(encoded: str, ink: bool) -> np.ndarray:
    """An image as [height, width] or [height, width, 3], 0 to 255. `ink`: 255 is ink, and is drawn dark on light."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        found = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return 255 - found if ink else found


def _image(axis: Any, image: np.ndarray, x: float, y: float, color: str, thickness: float) -> None:
    """An image in its square of a page, its sides in proportion, with a frame around it."""
    from matplotlib.patches import Rectangle

    tall, wide = (IMAGE * side / max(image.shape[:2]) for side in image.shape[:2])
    left, top = x + (IMAGE - wide) / 2, y + (IMAGE - tall) / 2
    axis.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(left, left + wide, top + tall, top), aspect="auto")
    axis.add_patch(Rectangle((left, top), wide, tall, fill=False, ec=color, lw=thickness))


def _width(text: str, size: float, weight: str = "normal") -> float:
    """How wide a text is, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size, weight=weight), ismath=False)[0] / 72


def fitted(text: str, width: float, size: float, lines: int) -> str:
    """A text in at most so many lines of a width in inches: names are broken at their joints, and too long ones inside."""
    text = " ".join(text.split())
    for kept in range(min(len(text), 200), 0, -1):
        short = text if kept == len(text) else text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        found = [""]
        for part in re.findall(r"[ /_-]*[^ /_-]*[ /_-]?", short):
            if found[-1] and _width(found[-1] + part.rstrip(), size) > width:
                found.append("")
            found[-1] += part
        if len(found) <= lines and all(_width(line.rstrip(), size) <= width for line in found):
            return "\n".join(line.strip() for line in found)
    return text[:1]


def by_steps(result: dict[str, Any]) -> dict[str, Any] | None:
    """Accuracy with both of its intervals, the headline or a further metric of a result; None if it has none."""
    found = result.get("metrics", {}).get("accuracy", result) if result else {}
    return found if "ci95_by_class" in found else None


def accuracy(contents: dict[str, Any]) -> Any:
    """Accuracy on unseen episodes over adaptation steps, with an interval for these classes and one for new classes."""
    result, found = contents["result"], by_steps(contents["result"])
    if not found or all(mean is None for mean in found["mean"]):
        return None
    protocol, steps, shots = result["protocol"], result["steps"], result["protocol"].get("shots")
    mean, *halves = (100 * np.array(found[name], float) for name in ("mean", "ci95", "ci95_by_class"))
    known, chance = np.flatnonzero(np.isfinite(mean)), 100 / protocol["ways"]
    best, worst = mean[known].max(), min(chance, mean[known].min())
    # Before adaptation all is chance, and after it a few per cent tell one number of steps from another: they get a close-up.
    near = known[mean[known] >= best - 0.25 * (best - worst)]
    panels = [known, near] if len(near) > 1 else [known]
    digits = 2 if np.nanmin(halves[0][near], initial=1.0) < 0.1 else 1
    marks = {name: protocol.get(f"{name}_adaptation_steps") for name in ("chosen", "trained")}
    figure, axes = axes_of(len(panels), 1, (4.0 + 3.0 * len(panels), 4.4))
    axes[0, 0].axhline(chance, color=NOTE, lw=1, ls="-.", zorder=0, label=f"chance ({chance:.3g} %)")
    for axis, places, title in zip(axes[0], panels, ("accuracy, per cent", "accuracy, close up"), strict=False):
        _curve(axis, places, mean, halves)
        for place in places if axis is axes[0, -1] else np.setdiff1d(places, near):
            top = min(mean[place] + np.nanmax([half[place] for half in halves], initial=0.0), 100.0)
            options = {"textcoords": "offset points", "xytext": (0, 5), "ha": "center", "fontsize": 8}
            options["bbox"] = {"fc": "white", "ec": "none", "pad": 0.5}  # a line through it would hide it
            axis.annotate(f"{mean[place]:.{digits}f}", (place, top), **options)
        marked = {place: [name for name in marks if marks[name] == steps[place]] for place in places}
        for place in filter(marked.get, places):
            axis.axvline(place, color=AUTO if "chosen" in marked[place] else BEFORE, lw=1.2, ls="--", zorder=0)
        axis.set_xticks(places, ["\n".join([str(steps[place]), *marked[place]]) for place in places])
        axis.set(xlabel="adaptation steps", ylabel=title, xlim=(places[0] - 0.5, places[-1] + 0.5))
        axis.margins(y=0.12)
        low, high = axis.get_ylim()
        axis.set_yticks([tick for tick in axis.get_yticks() if max(low, 0) <= tick <= min(high, 100)])
    told = next((steps.index(number) for number in marks.values() if number in steps), known[-1])
    sizes = zip(("these classes", "new classes"), halves, strict=True)
    around = ", ".join(f"± {half[told]:.{digits}f} ({name})" for name, half in sizes if np.isfinite(half[told]))
    head = f"{result['tasks']} unseen episodes, {protocol['ways']} ways, {shots} shot{'s' * (str(shots) != '1')}"
    after = f"after {steps[told]} step{'s' * (steps[told] != 1)}: {mean[told]:.{digits}f} % {around}"
    figure.suptitle(f"{head}\n{after}", fontsize=11)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _curve(axis: Any, places: np.ndarray, mean: np.ndarray, halves: list[np.ndarray]) -> None:
    """The mean with a thick bar over episodes and a thin one by class, none of them beyond 0 and 100."""
    names = ("95 % interval: these classes only (over episodes)", "new classes (clustered by class)")
    styles: list[dict[str, Any]] = [{"elinewidth": 5, "alpha": 0.4}, {"elinewidth": 1.2, "capsize": 5}]
    axis.plot(places, mean[places], color=TRAINED, marker="o", ms=4, lw=1.2)
    for name, half, style in zip(names, halves, styles, strict=True):
        bars = [np.minimum(np.nan_to_num(half[places]), room) for room in (mean[places], 100 - mean[places])]
        axis.errorbar(places, mean[places], yerr=bars, fmt="none", ecolor=TRAINED, label=name, **style)


def reliability(contents: dict[str, Any]) -> Any:
    """How often predictions of a stated confidence are right; below it, how many predictions state that confidence."""
    found = (contents["result"] or {}).get("calibration") or {}
    bins = [entry for entry in found.get("bins") or [] if entry["share"]]
    if not bins:
        return None
    confidence, right, share = (100 * np.array([entry[name] for entry in bins]) for name in ("confidence", "accuracy", "share"))
    figure, ((above,), (below,)) = axes_of(1, 2, (5.2, 6.2))
    above.get_gridspec().set_height_ratios((3, 1))
    low = 10 * np.floor(min(confidence.min(), right.min(), 90) / 10)
    margin = 0.03 * (100 - low)
    limits = low - margin, 100 + margin
    above.plot([low, 100], [low, 100], color=NOTE, lw=1, ls="--", label="stated and true alike")
    above.vlines(confidence, confidence, right, color=WRONG, alpha=0.35, lw=3, label="gap")
    above.plot(confidence, right, color=TRAINED, marker="o", ms=5, lw=1.2, label="predictions on unseen episodes")
    above.legend(frameon=False, fontsize=8, loc="upper left")
    above.set(xlim=limits, ylim=limits, ylabel="right predictions, per cent")
    apart = np.diff(np.sort(confidence)).min(initial=2 * margin)  # bars that do not overlap
    bars = below.bar(confidence, share, width=max(0.8 * apart, margin / 3), color=BAND)
    below.bar_label(bars, [f"{value:.0f}" if value >= 0.5 else "<1" for value in share], fontsize=7, padding=2)
    below.margins(y=0.2)
    below.set(xlim=limits, xlabel="confidence: probability of the predicted class, per cent", ylabel="share, per cent")
    before = f"{100 * found['ece_before']:.2g} % before division by temperature {found['temperature']:.2f}"
    figure.suptitle(f"Expected calibration error {100 * found['ece']:.2g} %\n({before})", fontsize=11)
    return figure


def confusion_matrix(names: list[str], counts: list[list[int]], title: str) -> Any:
    """How many images of each class (a row) were taken for each class (a column), shaded by their part of the row."""
    from matplotlib.colors import PowerNorm

    table, count = np.array(counts), len(names)
    cell, size = (0.36, 8) if count <= NO_COUNTS else (0.17 * min(1, NO_NAMES / count), SMALL)
    labels = [fitted(name, 1.9, size, 1) for name in drawable(names)]
    side = max(cell * count, 1.5) + max(_width(label, size) for label in labels) + 0.6
    figure, ((axis,),) = axes_of(size=(max(side, 4.0) + 0.8 * (count > NO_COUNTS), side + 0.5))
    part = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    shades = axis.imshow(part, cmap="Blues", norm=PowerNorm(0.6, 0, 1))  # few mistakes are seen too
    places = range(0, count, -(-count // NO_NAMES))
    axis.set_xticks(places, [labels[place] for place in places], rotation=90, fontsize=size, parse_math=False)
    axis.set_yticks(places, [labels[place] for place in places], fontsize=size, parse_math=False)
    if count > NO_COUNTS:
        figure.colorbar(shades, shrink=0.3, fraction=0.03, pad=0.02, label="part of the row")
    else:
        for row, column in np.argwhere((table > 0) | np.eye(count, dtype=bool)):
            color = "white" if part[row, column] > 0.4 else SUPPORT
            axis.text(column, row, str(table[row, column]), ha="center", va="center", fontsize=8, color=color)
    axis.spines[:].set_visible(True)
    axis.set(xlabel="predicted", ylabel="truth")
    heading = fitted(title, max(side, 4.0) - 0.2, 11, 2)
    figure.suptitle(f"{heading}\n{np.trace(table)} of {table.sum()} right", fontsize=11, parse_math=False)
    return figure
