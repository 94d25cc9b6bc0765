"""Which pictures a run has, and the files that they are drawn from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from fewstep.errors import InputError
from fewstep.plots.style import drawable
from fewstep.runs.run import read_config
from fewstep.storage.arrays import atomic_write
from fewstep.storage.json import read_json
from fewstep.training.progress import read_metrics

SOURCES = {"records": "metrics.jsonl", "result": "evaluation.json", "shown": "illustrations.json", "config": "config.json"}


def draw(directory: str | Path) -> list[Path]:
    """Draws what the files of a run directory allow, into `plots/*.png`. Raises `InputError` where there is no run."""
    directory = Path(directory)
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    contents = {name: _content(directory, file) for name, file in SOURCES.items()}
    application = read_config(directory)[1]
    others = set(plt.get_fignums())
    try:
        with matplotlib.rc_context({"text.parse_math": False}):  # a column may be called $x$
            pictures = {name: _rendered(paint(contents)) for name, paint in application.figures.items()}
    except Exception as error:  # of files that are damaged or of another version, whatever comes of them
        for number in set(plt.get_fignums()) - others:
            plt.close(number)
        raise InputError(
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
        with atomic_write(path) as partial:
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
        raise InputError(f"{path} is damaged ({error}). `fewstep evaluate {directory}` writes it again.") from error


def _rendered(figure: Any) -> bytes | None:
    """A figure as PNG; None of none."""
    import matplotlib.pyplot as plt

    if figure is None:
        return None
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130, format="png")
    plt.close(figure)
    return picture.getvalue()
