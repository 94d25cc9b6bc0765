"""Opens the folder of adapted units, which holds θ, the support rows and how to read them, and adapts again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax

from fewstep.application import Saved, application
from fewstep.errors import InputError
from fewstep.recipe.saved import settings_of
from fewstep.storage.arrays import read_arrays
from fewstep.storage.json import read_json, validate
from fewstep.storage.tables import read_table
from fewstep.supervised.adapted import FILE, PARAMETERS, SUPPORT, Adapted, adapt
from fewstep.supervised.trained import Trained


def open_units(directory: Path) -> Adapted:
    """Opens a folder that `Adapted.save` wrote. Raises `InputError` if it is damaged."""
    try:
        saved = read_json(directory / FILE)
        validate(saved["steps"], int | Literal["auto"], "steps")
        left_out = saved["left_out"]
        validate(left_out, dict[str, str], "left_out")
        support = read_table(directory / SUPPORT)
    except Exception as error:
        raise InputError(f"{directory}: the adapted model is damaged ({error}). Adapt again.") from error
    try:
        return replace(adapt(trained_of(saved, directory), support, str(directory), saved["steps"]), left_out=left_out)
    except InputError:
        raise
    except Exception as error:  # damaged archives raise many types
        raise InputError(f"{directory}: the adapted model is damaged ({type(error).__name__}). Adapt again.") from error


def trained_of(saved: dict[str, Any], directory: Path) -> Trained:
    """The trained model of an adapted folder with the content `saved`."""
    settings, owner = settings_of(saved["run"], directory / FILE), application(saved["run"]["application"])
    problem = owner.build(settings, saved["run"]["seed"], Saved(directory, saved["run"]))
    owner.check_calibration(saved["calibration"], problem)
    params = read_arrays(directory / PARAMETERS, jax.eval_shape(lambda: problem.init(jax.random.key(0))))
    validate(saved["findings"], tuple[str, ...], "findings")
    return Trained(problem, params, saved["calibration"], saved["run"], tuple(saved["findings"]), directory)
