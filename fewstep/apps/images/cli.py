"""The commands `adapt` and `predict` for runs trained on images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from fewstep.cli.arguments import one_choice_of_steps, prepare_jax, say, say_notes
from fewstep.errors import InputError
from fewstep.storage.tables import new_table, write_table


@dataclass(frozen=True)
class Adapt:
    """Fit a trained run to new classes from a few photos of each."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    out: str
    """folder for the adapted model"""
    support: str = ""
    """a folder or zip with a folder of photos for each new class"""
    steps: str | None = None
    """adaptation steps, by default as chosen on meta-validation tasks"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        steps = one_choice_of_steps(self.steps)
        prepare_jax()
        from fewstep.runs import open_run

        run = open_run(self.run)
        if not self.support:
            raise InputError("--support is needed: a folder with photos of the new classes.")
        return adapt(run, self.support, self.out, steps, self.json)


@dataclass(frozen=True)
class Predict:
    """Predict the classes of photos with an adapted model: a table of labels and probabilities."""

    adapted: Annotated[str, tyro.conf.Positional]
    """the adapted model's folder"""
    inputs: str
    """a photo, or a folder or zip of photos"""
    out: str
    """the file to write: .csv, .tsv, .parquet, .arrow, .feather, .json or .jsonl"""
    level: float | None = None
    """adds sets of classes that hold the right one so often, such as 0.9"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        prepare_jax()
        return predict(self.adapted, self.inputs, self.out, self.level, self.json)


def adapt(run: Any, support: str, out: str, steps: Any, as_json: bool) -> int:
    """`fewstep adapt RUN --support PHOTOS --out ADAPTED`."""
    from fewstep.apps.images.adapted import adapt_photos
    from fewstep.supervised.adapted_rows import span, uncalibrated

    if steps == "auto":
        raise InputError(
            "--steps auto is for tables; of images, meta-validation tasks have chosen the number of steps already."
        )
    model = adapt_photos(run, support, steps)
    model.save(out)
    say_notes((*model.trained.messages, *model.notes))
    if not model.calibrated:
        say(f"note: {uncalibrated(model.trained)}", json=True)
    elif not model.as_calibrated:
        trained = model.problem.settings
        say(
            f"note: probabilities and the limit of none_of_these were fitted at {trained.ways} classes with "
            f"{trained.shot_range.shown} photos each",
            json=True,
        )
    if model.calibrated and (why := model.why_no_unknown_rule()):
        say(f"note: no photo will be told to be none of the classes: {why}", json=True)
    if len(set(model.shots.tolist())) > 1:
        say(f"note: classes have {span(model.shots)} photos; each class counts alike", json=True)
    listed = ", ".join(model.classes[:8]) + (", ..." if len(model.classes) > 8 else "")
    if as_json:
        content = {"adapted": out, "classes": list(model.classes), "photos": model.shots.tolist()}
        print(json.dumps({**content, "adaptation_steps": model.steps, "notes": list(model.notes)}))
    else:
        what = f"{len(model.classes)} classes of {span(model.shots)} photos each ({listed})"
        say(f"adapted to {what} in {model.steps} steps -> {out}")
    return 0


def predict(adapted: str, inputs: str, out_name: str, level: float | None, as_json: bool) -> int:
    """`fewstep predict ADAPTED --inputs PHOTOS --out labels.csv`."""
    import polars as pl

    from fewstep.apps.images.adapted import open_photos
    from fewstep.supervised.adapted_rows import significant

    out = new_table(out_name)
    model = open_photos(Path(adapted))
    images, files, notes = model.read(inputs)
    chance, none = model.predict_known(images)
    guess = np.array(model.classes)[chance.argmax(1)]
    columns: dict[str, Any] = {"file": files, "prediction": guess, "probability": significant(chance.max(1))}
    if why := model.why_no_unknown_rule():
        notes = (*notes, f"the column none_of_these is left out: {why}")
    else:
        columns["none_of_these"] = none
    if level is not None and (why := model.why_no_sets(level)):
        notes = (*notes, f"the column set is left out: at --level {level:g} {why}")
    elif level is not None:
        columns["set"] = [" | ".join(names) for names in model.sets(chance, level)]
    columns |= {f"probability_{name}": significant(chance[:, number]) for number, name in enumerate(model.classes)}
    support = model.seen(images)
    repeated = [(file, seen) for file, seen in zip(files, support, strict=True) if seen]
    if repeated:
        file, seen = repeated[0]
        notes = (
            *notes,
            f"{len(repeated)} of the photos are support photos too, such as {file} (there {seen}): they are not counted",
        )
    if model.problem.settings.normalization == "batch":
        notes = (*notes, "this run normalizes by batch: predictions of up to 32 photos depend on one another")
    truth = [None if seen else name for name, seen in zip(model.truth(files), support, strict=True)]
    known = [number for number, name in enumerate(truth) if name is not None]
    right = [truth[number] == guess[number] for number in known]
    write_table(pl.DataFrame(columns), out)
    picture = confusion(model.classes, truth, guess, out) if known else None
    say_notes((*model.trained.messages, *notes))
    told = None if model.unknown_rule is None else int(none.sum())
    if as_json:
        score = {"labeled": len(right), "right": sum(right), "picture": str(picture)} if known else {}
        print(json.dumps({"predictions": str(out), "photos": len(files), "none_of_these": told, "notes": list(notes), **score}))
        return 0
    say(f"{len(files)} photos -> {out}" + (f"; {told} look like none of the classes" if told else ""))
    if known:
        say(f"{sum(right)} of {len(right)} photos whose folder names a class are right: {picture}")
    return 0


def confusion(classes: tuple[str, ...], truth: list[str | None], guess: np.ndarray, out: Path) -> Path:
    """Draws the confusion matrix beside the table; returns where."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from fewstep.apps.images.plots import confusion_matrix

    counts = np.zeros((len(classes), len(classes)), int)
    place = {name: number for number, name in enumerate(classes)}
    for name, found in zip(truth, guess, strict=True):
        if name is not None:
            counts[place[name], place[found]] += 1
    figure = confusion_matrix(list(classes), counts.tolist(), "photos whose folder names a class")
    path = out.with_name(f"{out.stem}_confusion.png")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
