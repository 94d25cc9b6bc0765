"""The protocol that every application fulfils, and the registry that finds applications by name.

An application is one kind of task that fewstep can be used for: rows of a table, photos, policies. The rest of fewstep
asks it what it can do and never which one it is. Applications are found through entry points of the group
`fewstep.applications`, ours as well as those of other packages:

    [project.entry-points."fewstep.applications"]
    bowls = "fewstep_bowls:APPLICATION"

`fewstep.testing.check_application` checks that an application fulfils the protocol. Nothing is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from fewstep.errors import InputError
from fewstep.storage.files import Source as Source
from fewstep.storage.json import read_json

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from fewstep.core.types import MetaParams

GROUP = "fewstep.applications"
"""of the entry points"""
ADAPTED = "adapted.json"
"""the file in the folder of an adapted model that names its application"""
LAYOUT = 3
"""of the folders of runs and of adapted models. Folders of another layout are refused."""

Json = dict[str, Any]
Settings = Any
"""a frozen value with the fields of a problem, whose docstring says in one line what the problem is"""
Presets = Mapping[str, tuple[Settings, str]]
"""preset -> (settings, what it is for)"""
Contents = dict[str, Any]
"""what the files of a run hold: `records`, `result`, `shown`, `config`; empty if there is no such file"""


class Command(NamedTuple):
    """A subcommand of `fewstep` that an application has."""

    target: str
    """`module:Class`, imported when the command is called: a dataclass of the options; calling its value does the work, and
    returns the exit code"""
    summary: str
    """one line for `fewstep --help`"""
    folder: Literal["run", "adapted", ""] = "run"
    """what its first argument is, by which the application is found: a run's folder, an adapted model's, or neither"""


@dataclass(frozen=True)
class EvaluationOptions:
    """How a run is evaluated. An application is given only what its `evaluation` names."""

    steps: tuple[Any, ...] | None = None
    """numbers of adaptation steps to measure after; None for the usual ones"""
    tasks: int | None = None
    """distinct tasks at most; None for the usual number"""
    draws: int | None = None
    """episodes of each task; None for the usual number"""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """settings that differ from those that the run was trained with"""
    trained: Settings = None
    """the settings that the run was trained with"""
    record: Callable[[], Mapping[str, Any]] = dict
    """reads what was recorded with the checkpoint"""
    full: bool = False
    """whether this is the evaluation that is kept as `evaluation.json`"""
    quiet: bool = True


class Saved(NamedTuple):
    """A run that is opened."""

    directory: Path
    config: Json
    """the content of its `config.json`"""


class Example(NamedTuple):
    """A tiny problem by which `fewstep.testing.check_application` checks an application."""

    settings: Settings
    """train in seconds"""
    support: Any = None
    """what `adapt` takes"""
    inputs: Any = None
    """what the adapted model's `predict` takes"""
    bad: Mapping[str, Any] = {}
    """a setting by name, with a value that should be refused"""


@runtime_checkable
class AdaptedModel(Protocol):
    """A model that was adapted to one task or more."""

    def predict(self, inputs: Any, /) -> Any:
        """Outputs for `inputs`, in the user's units."""
        ...

    def save(self, directory: str | Path) -> Any:
        """Writes a new folder, whose `adapted.json` names the application and the layout."""
        ...


class Application(Protocol):
    """What fewstep has to know of one kind of task. A module or any other object with these members is one."""

    name: str
    """the name of its entry point"""
    capabilities: frozenset[str]
    """`calibration`: models are calibrated on meta-calibration tasks after training; `data`: problems have tasks that a saved
    run does not hold; `processes`: several processes can train together; `environments`: models act in
    environments, whose code may be named by `--env`; `rates`, `estimates`: --find-rate and --dry-run of `fewstep train`"""
    commands: Mapping[str, Command]
    """subcommands of `fewstep`, such as `adapt`, for its runs and its adapted models"""
    evaluation: Mapping[str, str]
    """the options of `fewstep evaluate` that it honors, each with the setting that it replaces; "" if it replaces none"""

    @property
    def problems(self) -> Mapping[str, type[Settings]]:
        """The settings of each problem, by the problem's name."""
        ...

    @property
    def presets(self) -> Mapping[str, Presets]:
        """The presets of each problem, by the problem's name; each has one named `default`."""
        ...

    @property
    def figures(self) -> Mapping[str, Callable[[Contents], Any]]:
        """Functions by the name of a picture that return a matplotlib figure, or None if the files lack what it shows."""
        ...

    @property
    def methods(self) -> Sequence[Any]:
        """The methods that `fewstep compare` tries; one that starts from another one stands behind it."""
        ...

    def build(self, settings: Settings, seed: int, saved: Saved | None = None, trusted: str = "") -> Any:
        """The Problem of these settings; of a `saved` run as much of it as needs no data.

        `trusted` names code that the user allows to run. Raises `InputError` for settings that cannot be used, and `NotTrusted`
        for code that is not named.
        """
        ...

    def candidates(self, settings: Settings) -> Mapping[str, Settings]:
        """The settings among which validation tasks choose, by name; one or none if there is nothing to choose."""
        ...

    def sources(self, settings: Settings) -> Mapping[str, Source]:
        """The files from which a problem is built, by the name of the setting."""
        ...

    def named_code(self, settings: Settings) -> str:
        """The `module:factory` that the settings name, whose code is run if the user names it; "" if they name none."""
        ...

    def describe(self, problem: Any) -> Sequence[str]:
        """Lines to print before training begins."""
        ...

    def record(self, problem: Any) -> Json:
        """What `config.json` has to hold, beside settings and seed, to build the problem without its data."""
        ...

    def calibrate(self, problem: Any, params: MetaParams, directory: Path) -> Json:
        """The content of `calibration.json`; other files that calibrated models need are written into `directory`."""
        ...

    def check_calibration(self, calibration: Json, problem: Any) -> None:
        """Raises `ValueError` if this is not the content of a `calibration.json`."""
        ...

    def evaluate(self, problem: Any, params: MetaParams, calibration: Json, options: EvaluationOptions) -> Json:
        """The content of `evaluation.json`: at least `problem`, `metric`, `tasks`, `steps`, `mean`, `ci95` and `protocol`."""
        ...

    def illustrate(self, problem: Any, params: MetaParams, calibration: Json, result: Json) -> Json:
        """The content of `illustrations.json`: the numbers that pictures show."""
        ...

    def adapt(self, run: Any, support: Any, **options: Any) -> AdaptedModel:
        """Adapts a trained run to `support`. Raises `InputError` if it cannot be used."""
        ...

    def open_adapted(self, directory: Path) -> AdaptedModel:
        """Opens a folder that the adapted model's `save` wrote. Raises `InputError` if it is damaged."""
        ...

    def benchmark(self, settings: Settings, seed: int, say: Callable[[str], None], **options: Any) -> Sequence[Any]:
        """What the methods of a comparison are evaluated on: one split, or one for each fold of a cross-fitting."""
        ...

    def example(self, folder: Path) -> Example:
        """A tiny problem for `check_application`; its data, if it needs any, is written into `folder`."""
        ...


MEMBERS = tuple(sorted(name for name in (*Application.__annotations__, *vars(Application)) if not name.startswith("_")))
"""of the protocol, by name"""


@cache
def entry_points() -> dict[str, EntryPoint]:
    """The installed applications by name, in the order of their names, none of them imported."""
    from importlib.metadata import entry_points as installed

    found: dict[str, EntryPoint] = {}
    for point in sorted(installed(group=GROUP), key=lambda point: point.name):
        found.setdefault(point.name, point)
    if not found:
        raise InputError(
            f"expected installed applications (entry points of the group {GROUP}), found none: fewstep is not installed, or an "
            "earlier version of it is. Install it: pip install fewstep, or pip install -e . in a checkout."
        )
    return found


def package_of(name: str) -> str:
    """The name of the package, as pip knows it, that brings an installed application."""
    distribution = entry_points()[name].dist
    return distribution.name if distribution else entry_points()[name].module.partition(".")[0]


@cache
def application(name: str, package: str = "") -> Application:
    """The application of this name. Raises `InputError` if it is not installed, cannot be imported or lacks a member of the
    protocol. `package` is the package that brought it when a folder was written."""
    if name not in entry_points():
        known = ", ".join(entry_points())
        what = f"pip install {package}" if package else "install the package that brings it"
        raise InputError(f"there is no application {name!r} installed; expected one of {known}. To use it: {what}.")
    try:
        found: Application = entry_points()[name].load()
    except Exception as error:  # of other people's code, whatever comes of it
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"the application {name!r} of the package {package_of(name)} cannot be imported ({reason}). Repair or remove it."
        ) from error
    if absent := missing(found):
        raise InputError(
            f"the application {name!r} of the package {package_of(name)} does not fulfil fewstep.application.Application: it "
            f"has no {', '.join(absent)}. Add {'it' if len(absent) == 1 else 'them'}."
        )
    return found


def missing(found: Any) -> list[str]:
    """The members of the protocol that an object lacks."""
    return [name for name in MEMBERS if name not in dir(found)]


def applications() -> tuple[Application, ...]:
    """All installed applications that can be used; `unusable` says why others cannot."""
    return tuple(application(name) for name in entry_points() if name not in unusable())


@cache
def unusable() -> dict[str, str]:
    """Why an installed application cannot be used, by its name."""
    reasons = {}
    for name in entry_points():
        try:
            application(name)
        except InputError as error:
            reasons[name] = str(error)
    return reasons


def application_of_problem(problem: str) -> Application:
    """The application that has a problem of this name. Raises `InputError` if there is none."""
    for found in applications():
        if problem in found.problems:
            return found
    known = ", ".join(name for found in applications() for name in found.problems)
    why = "".join(f" {reason}" for reason in unusable().values())
    raise InputError(f"there is no problem {problem!r}; expected one of {known}.{why}")


def problem_of(settings: Settings) -> tuple[Application, str]:
    """The application of these settings, and the name of their problem. Raises `InputError` if they are of none."""
    for found in applications():
        for name, kind in found.problems.items():
            if type(settings) is kind:
                return found, name
    raise InputError(f"expected the settings of a problem such as Sine() or Table(...), got {type(settings).__name__}.")


def problems() -> dict[str, type[Settings]]:
    """The settings of all problems of all applications, by the problem's name."""
    return {name: kind for found in applications() for name, kind in found.problems.items()}


def presets() -> dict[str, Presets]:
    """The presets of all problems of all applications, by the problem's name."""
    return {name: known for found in applications() for name, known in found.presets.items()}


def settings_of(problem: str, preset: str) -> Settings:
    """The settings of a preset. Raises `InputError` if there is no such problem or preset."""
    known = application_of_problem(problem).presets[problem]
    if preset not in known:
        raise InputError(f"there is no preset {preset!r}; expected one of {', '.join(known)}.")
    return known[preset][0]


def resolve(target: str) -> Callable[..., Any]:
    """What `module:name` names."""
    module, _, name = target.partition(":")
    found = import_module(module)
    for part in name.split("."):
        found = vars(found)[part]
    return found  # type: ignore[return-value]


def read_adapted(directory: str | Path) -> Json:
    """The content of an adapted model's `adapted.json`. Raises `InputError` if it is none, is damaged or of another layout."""
    path = Path(directory) / ADAPTED
    if not path.is_file():
        hint = " It is a trained run: adapt it first." if path.with_name("config.json").is_file() else ""
        raise InputError(f"{directory}: expected the folder of an adapted model (`fewstep adapt` makes one), found none.{hint}")
    try:
        saved = read_json(path)
        layout = saved.get("layout")
    except (ValueError, OSError, AttributeError) as error:
        raise InputError(f"{directory}: the adapted model is damaged ({error}). Adapt again.") from error
    if layout != LAYOUT:
        raise InputError(
            f"{path}: expected an adapted model of layout {LAYOUT}, got {layout or 'an earlier one'}. Adapt again."
        )
    return saved


def application_of_adapted(directory: str | Path) -> Application:
    """The application of an adapted model's folder. Raises `InputError` as `read_adapted` does, and if it is not installed."""
    saved = read_adapted(directory)
    try:
        return application(str(saved.get("application")), str(saved.get("package") or ""))
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error


def open_adapted(directory: str | Path) -> AdaptedModel:
    """Opens the folder of an adapted model, whatever its application. Raises `InputError` if it is none, or is damaged."""
    return application_of_adapted(directory).open_adapted(Path(directory))
