"""How quick images are: reading Omniglot, cutting episodes, adapting to photos of new classes. See README.md here.

    python -m benchmarks.speed.image_pipeline --omniglot ../shared/data/omniglot

Reading is a process of its own, the second time on a machine. Episodes are timed as the loop draws them, beside the
meta-step that they are for. Adaptation is `adapt_photos` on ten folders of five generated photos, 84 x 84, from the files
to the first answers, once the programs are compiled; by as many steps as the default takes in training, and twice as
many."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks.records import Options, device, median_seconds, timed, write
from fewstep import runs
from fewstep.application import presets
from fewstep.apps.images.adapted import adapt_photos
from fewstep.cli.arguments import prepare_jax
from fewstep.core import maml
from fewstep.supervised.trained import Trained
from fewstep.training.chunk import compiled_chunk, meta_steps_per_sample
from fewstep.training.devices import meta_batches, replicate, task_mesh
from fewstep.training.jit import jit_hoisted
from fewstep.training.tuning import prepare

CLASSES, PHOTOS, SIZE = 10, 5, 84
META_STEPS = 50
READ = "import sys, time; t = time.monotonic(); from fewstep.apps.images.omniglot import read_omniglot; i = time.monotonic(); "
READ += "read_omniglot(sys.argv[1]); print(time.monotonic() - i)"


def main() -> None:
    parser = Options(__doc__, "speed/image_pipeline.json")
    parser.add_argument("--omniglot", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    prepare_jax()
    record = {
        "reading_omniglot": reading(arguments.omniglot, arguments.repeats),
        "episodes": {name: episodes(name, arguments.omniglot, arguments.repeats) for name in ("default", "maml", "best")},
        "adapting_photos": adapting(arguments.repeats),
        "device": device(),
    }
    print(json.dumps(record, indent=1))
    write(arguments.out, record)


def reading(folder: str, repeats: int) -> dict[str, float]:
    """Seconds to have all of Omniglot as one array, in a new process, after it was read before."""
    times = [
        float(subprocess.run([sys.executable, "-c", READ, folder], check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats + 1)
    ]
    return {"first_here": round(times[0], 3), "then": round(statistics.median(times[1:]), 3)}


def episodes(preset: str, folder: str, repeats: int) -> dict[str, float]:
    """Milliseconds of a meta-step of Omniglot, of cutting its episodes, and their ratio."""
    mesh = task_mesh()
    problem = prepare(replace(presets()["omniglot"][preset][0], data_dir=folder).build(0), mesh, 0, quiet=True)
    assert problem.splits is not None
    key, ahead = jax.random.key(0), meta_steps_per_sample(problem)
    state = replicate(maml.init(problem.outer_optimizer, problem.init(key)), mesh)
    chunk = compiled_chunk(problem, mesh)
    chunk(state, key, 1)
    whole = median_seconds(lambda: chunk(state, key, META_STEPS)[1].meta_loss, repeats) / META_STEPS
    cut = jit_hoisted(meta_batches(problem, mesh, ahead))
    jax.block_until_ready(cut(jnp.asarray(0), key))
    cutting = median_seconds(lambda: cut(jnp.asarray(0), key), 10 * repeats) / ahead
    return {
        "meta_step_ms": round(1e3 * whole, 2),
        "cutting_ms": round(1e3 * cutting, 2),
        "share": round(cutting / whole, 4),
    }


def adapting(repeats: int) -> dict[str, Any]:
    """Seconds from folders of photos to an adapted model that has answered, by adaptation steps; the first time in a process,
    and again for further folders of a model that is kept."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "train", 30, 8)
        write_photos(folder / "new", CLASSES, PHOTOS)
        settings = replace(
            presets()["images"]["default"][0],
            data=str(folder / "train"),
            meta_steps=2,
            validation_tasks=2,
            test_queries=2,
            queries=2,
        )
        trained, found = Trained.of(runs.train(settings, folder / "run", quiet=True)), {}
        for steps in (trained.trained_steps, 2 * trained.trained_steps):

            def adapt(steps=steps):
                model = adapt_photos(trained, folder / "new", steps)
                return model.predict_known(model.images[:CLASSES])

            first = timed(adapt)
            found[f"{steps} steps"] = {"first": round(first, 2), "warm": round(median_seconds(adapt, repeats), 3)}
        return found


def write_photos(folder: Path, classes: int, photos: int) -> None:
    random = np.random.default_rng(0)
    for number in range(classes):
        for photo in range(photos):
            path = folder / f"class{number}" / f"{photo}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (3 * SIZE, 4 * SIZE, 3), np.uint8)).save(path)


if __name__ == "__main__":
    main()
