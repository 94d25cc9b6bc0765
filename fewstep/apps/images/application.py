"""The application `images`, as `fewstep.application.Application` describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.application import (
    AdaptedModel,
    Command,
    Contents,
    EvaluationOptions,
    Example,
    Json,
    Presets,
    Source,
    resolve,
)
from fewstep.apps.rows.application import ROWS, SupervisedApplication

if TYPE_CHECKING:
    from fewstep.core.types import MetaParams


class ImagesApplication(SupervisedApplication):
    """Tasks are a few classes with a few images of each."""

    name = "images"
    commands: Mapping[str, Command] = {
        "adapt": ROWS["adapt"]._replace(target="fewstep.apps.images.cli:Adapt"),
        "predict": ROWS["predict"]._replace(target="fewstep.apps.images.cli:Predict"),
    }
    evaluation: Mapping[str, str] = {"steps": "", "tasks": "", "shots": "shots", "ways": "ways", "queries": "test_queries"}

    @property
    def problems(self) -> Mapping[str, type[Any]]:
        from fewstep.apps.images.omniglot import Omniglot
        from fewstep.apps.images.problem import Images

        return {"images": Images, "omniglot": Omniglot}

    @property
    def presets(self) -> Mapping[str, Presets]:
        from fewstep.apps.images import omniglot, problem

        return {"images": problem.PRESETS, "omniglot": omniglot.PRESETS}

    @property
    def figures(self) -> Mapping[str, Callable[[Contents], Any]]:
        from fewstep.apps.images.plots import accuracy, episodes, reliability
        from fewstep.plots.curves import training

        return {"training": training, "episodes": episodes, "accuracy": accuracy, "reliability": reliability}

    @property
    def methods(self) -> Sequence[Any]:
        return resolve("fewstep.apps.images.compare:methods")()

    def sources(self, settings: Any) -> Mapping[str, Source]:
        given = {name: getattr(settings, name, "") for name in ("data", "data_dir", "labels")}
        return {name: Source(path, hashed=name == "data") for name, path in given.items() if path}

    def record(self, problem: Any) -> Json:
        return {**super().record(problem), "classes": problem.images.parts}

    def check_calibration(self, calibration: Json, problem: Any) -> None:
        from fewstep.apps.images.report import check_image_calibration

        check_image_calibration(calibration, problem)

    def calibrate(self, problem: Any, params: MetaParams, directory: Path) -> Json:
        """Chooses the number of steps, fits the temperature; keeps the photos that calibrate prediction sets."""
        from fewstep.apps.images.prediction_sets import write_photos
        from fewstep.apps.images.report import calibrate_images

        write_photos(directory, problem.images.calibration)
        return calibrate_images(problem, params)

    def evaluate(self, problem: Any, params: MetaParams, calibration: Json, options: EvaluationOptions) -> Json:
        """Accuracy with intervals over episodes and classes. With other settings than those of the training, what is chosen on
        meta-validation tasks (adaptation steps, temperature) is chosen anew."""
        import time

        from fewstep.apps.images.report import calibrate_images, evaluate_images
        from fewstep.training.progress import working

        started = time.monotonic()
        if options.trained is not None and any(getattr(options.trained, name) != new for name, new in options.changes.items()):
            calibration = calibrate_images(problem, params)
        steps, tasks = options.steps or problem.evaluation_steps, options.tasks or 1000
        with working("evaluating on unseen tasks, beside the cheapest classics", options.quiet):
            result = evaluate_images(problem, params, calibration, steps, tasks, options.full)
        result["protocol"] |= self.trained_protocol(options.trained or problem.settings)
        return {**result, "seconds": round(time.monotonic() - started, 2)}

    def trained_protocol(self, settings: Any) -> Json:
        return {**super().trained_protocol(settings), "trained_ways": settings.train_ways or settings.ways}

    def illustrate(self, problem: Any, params: MetaParams, calibration: Json, result: Json) -> Json:
        """A few episodes with their images."""
        from fewstep.apps.images.report import example_episodes

        return example_episodes(problem, params, calibration)

    def adapt(self, run: Any, support: Any, **options: Any) -> AdaptedModel:
        """Adapts to the photos in a folder or a zip of class folders."""
        from fewstep.apps.images.adapted import adapt_photos

        return adapt_photos(run, support, **options)

    def open_adapted(self, directory: Path) -> AdaptedModel:
        from fewstep.apps.images.adapted import open_photos

        return open_photos(directory)

    def benchmark(self, settings: Any, seed: int, say: Callable[[str], None], **options: Any) -> Sequence[Any]:
        """The same episodes of held-out classes for all methods."""
        from fewstep.apps.images.compare import make_benchmarks

        return make_benchmarks(settings, seed, say, **options)

    def example(self, folder: Path) -> Example:
        import numpy as np
        from PIL import Image

        from fewstep.apps.images.problem import Images

        random = np.random.default_rng(0)
        for number in range(12):
            (folder / "photos" / f"class{number}").mkdir(parents=True)
            for photo in range(5):
                pixels = (255 * random.random((8, 8, 3)) * (number + 1) / 12).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / f"class{number}" / f"{photo}.png")
        settings = Images(
            data=str(folder / "photos"),
            size=8,
            ways=2,
            shots=1,
            queries=1,
            test_queries=1,
            filters=4,
            adaptation_steps=1,
            meta_batch_size=2,
            meta_steps=4,
            log_every=2,
            validation_tasks=4,
        )
        return Example(settings, folder / "photos", folder / "photos" / "class0", {"inner_rate": -1.0, "ways": 1})


APPLICATION = ImagesApplication()
