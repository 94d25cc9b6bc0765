"""Which pictures a run has, and the files that they are drawn from (floor 4)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.errors import BadInput
from fewstep.plain import read_json
from fewstep.plots import policies
from fewstep.plots.curves import adaptation, by_shots, training
from fewstep.plots.images import accuracy, by_steps, episodes, reliability
from fewstep.plots.style import drawable
from fewstep.plots.units import unseen_tasks, worst_tasks
from fewstep.training.log import read_metrics
from fewstep.whole import whole

SOURCES = {"records": "metrics.jsonl", "result": "evaluation.json", "shown": "illustrations.json", "config": "config.json"}
Picture = Callable[[dict[str, Any]], Any]


def _of_rows(paint: Picture) -> Picture:
    """A picture of tasks whose examples are rows of numbers: a run on images has others in its place."""

    def painted(contents: dict[str, Any]) -> Any:
        images = contents["shown"] and contents["shown"].get("kind") == "images"
        return None if images or by_steps(contents["result"]) else paint(contents)

    return painted


PICTURES: dict[str, Picture] = {
    "training": training,
    "adaptation": _of_rows(adaptation),
    "shots": _of_rows(by_shots),
    "unseen_tasks": _of_rows(unseen_tasks),
    "worst_tasks": _of_rows(worst_tasks),
    "episodes": episodes,
    "accuracy": accuracy,
    "reliability": reliability,
}
"""name -> a function of what the files hold, by the names in SOURCES, that returns a figure, or None where they lack it"""


def draw(directory: str | Path) -> list[Path]:
    """Draws what the files of a run directory allow, into `plots/*.png`. Raises `BadInput` where there is no run."""
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise BadInput(f"{directory}: expected the folder of a trained run, found no config.json in it.")
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    contents = {name: _content(directory, file) for name, file in SOURCES.items()}
    policy = any("validation_returns" in record for record in contents["records"])
    others = set(plt.get_fignums())
    try:
        with matplotlib.rc_context({"text.parse_math": False}):  # a column may be called $x$
            pictures = {name: _rendered(paint(contents)) for name, paint in (policies.PICTURES if policy else PICTURES).items()}
    except Exception as error:  # of files that are damaged or of another version, whatever comes of them
        for number in set(plt.get_fignums()) - others:
            plt.close(number)
        raise BadInput(
            f"{directory}: one of {', '.join(SOURCES.values())} is damaged or of another version ({type(error).__name__}: "
            f"{error}). `fewstep evaluate {directory}` writes most of them again."
        ) from error
    folder = directory / "plots"
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, picture in pictures.items():
        path = folder / f"{name}.png"
        if picture is None:  # of figures that are no longer there
            path.unlink(missing_ok=True)
            continue
        with whole(path) as partial:
            partial.write_bytes(picture)
        drawn.append(path)
    return drawn


def _content(directory: Path, file: str) -> Any:
    """What a file of the run holds; empty where there is no such file."""
    path = directory / file
    if not path.is_file():
        return {}
    try:
        return drawable(read_metrics(path) if path.suffix == ".jsonl" else read_json(path))
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} is damaged ({error}). `fewstep evaluate {directory}` writes it again.") from error


def _rendered(figure: Any) -> bytes | None:
    """A figure as PNG; None of none."""
    import matplotlib.pyplot as plt

    if figure is None:
        return None
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130, format="png")
    plt.close(figure)
    return picture.getvalue()
