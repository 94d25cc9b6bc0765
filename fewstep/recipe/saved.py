"""Settings as a run has saved them. Used by runs and runtime."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from fewstep.application import application
from fewstep.errors import InputError
from fewstep.storage.json import validate
from fewstep.version import __version__


def settings_of(config: dict[str, Any], source: Path) -> Any:
    """The settings dataclass that a `config.json` records. Raises `InputError` where this version does not know them."""
    try:
        kind = application(config["application"]).problems[config["problem"]]
        saved = {name: tuple(value) if isinstance(value, list) else value for name, value in config["settings"].items()}
        if unknown := set(saved) - {field.name for field in fields(kind)}:
            raise KeyError(*sorted(unknown))
        hints = get_type_hints(kind)
        for name, value in saved.items():
            validate(value, hints[name], name)
        return kind(**saved)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{source}: expected settings that fewstep {__version__} knows, found others or damaged ones ({error!r}). "
            "Open it with the version that wrote it, or train again."
        ) from error
