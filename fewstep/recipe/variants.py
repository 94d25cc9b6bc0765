"""The published variants by name, each as the settings that make it. `VARIANTS` is what `fewstep list` shows and
`fewstep train PROBLEM --variant NAME` takes; the values behind them stand in fewstep/variants and fewstep/gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, cast

from fewstep.apps.images.settings import ImageSettings
from fewstep.errors import InputError
from fewstep.recipe.settings import PLAIN_MAML, LearningSettings

Settings = TypeVar("Settings", bound=LearningSettings)


class Variant(NamedTuple):
    """One idea, as settings of a problem."""

    settings: dict[str, Any]
    line: str
    """what it does, for people"""
    source: str
    of_images: bool | None = None
    """whether it is for problems of images alone (True), for all others (False), or for any (None)"""


NO_STEP_JUDGED = {"inner_optimizer": "sgd", "multi_step": 0.0, "first_order_until": 0.0}
"""what meta-gradients go with that only see where adaptation ends"""

VARIANTS = {
    "maml": Variant(
        PLAIN_MAML, "its inner loop and outer optimizer as published; others may follow", "Finn et al. 2017, arXiv 1703.03400"
    ),
    "fomaml": Variant(
        {"meta_gradient": "first-order"}, "without second derivatives", "Finn et al. 2017, section 5.2, arXiv 1703.03400"
    ),
    "reptile": Variant(
        {"meta_gradient": "reptile", **NO_STEP_JUDGED},
        "towards the adapted parameters; nothing is differentiated twice",
        "Nichol et al. 2018, arXiv 1803.02999",
    ),
    "imaml": Variant(
        {"meta_gradient": "implicit", "adaptation_steps": 16, **NO_STEP_JUDGED},
        "the exact gradient at the minimum that adaptation is pulled to",
        "Rajeswaran et al. 2019, arXiv 1909.04630",
    ),
    "evolution": Variant(
        {"meta_gradient": "evolution", "first_order_until": 0.0},
        "from values of the loss after adaptation, which may have steps and corners",
        "Song et al. 2020 (ES-MAML), arXiv 1910.01215",
    ),
    "bootstrap": Variant(
        {"bootstrap": 5, "multi_step": 0.0, "first_order_until": 0.0},
        "towards where five further steps lead",
        "Flennerhag et al. 2022, arXiv 2109.04504",
    ),
    "meta-sgd": Variant(
        {"inner_optimizer": "meta-sgd"}, "a learned rate for each parameter", "Li et al. 2017, arXiv 1707.09835"
    ),
    "lslr": Variant(
        {"inner_optimizer": "lslr"},
        "a learned rate for each layer and step",
        "Antoniou et al. 2019 (MAML++), arXiv 1810.09502",
    ),
    "meta-curvature": Variant(
        {"inner_optimizer": "meta-curvature"},
        "learned matrices turn each layer's gradient",
        "Park & Oliva 2019, arXiv 1902.03356",
    ),
    "alfa": Variant(
        {"inner_optimizer": "alfa"},
        "a small network sets rates and decays for each task and step",
        "Baik et al. 2020, arXiv 2011.00209",
    ),
    "multi-step": Variant(
        {"multi_step": 0.3}, "every adaptation step is judged, at first", "Antoniou et al. 2019 (MAML++), arXiv 1810.09502"
    ),
    "derivative-annealing": Variant(
        {"first_order_until": 0.3},
        "first order at first, then exact",
        "Antoniou et al. 2019 (MAML++), arXiv 1810.09502",
    ),
    "maml++": Variant(
        {
            "inner_optimizer": "lslr",
            "multi_step": 0.3,
            "first_order_until": 0.3,
            "outer_schedule": "cosine",
            "per_step": ("scales", "shifts"),
        },
        "learned rates, multi-step loss, annealing, cosine, scales and shifts by step",
        "Antoniou et al. 2019, arXiv 1810.09502",
        of_images=True,
    ),
    "per-step-norm": Variant(
        {"per_step": ("scales", "shifts")},
        "scales and shifts learned for each step",
        "Antoniou et al. 2019 (MAML++), arXiv 1810.09502",
        of_images=True,
    ),
    "anil": Variant({"adapt": ("head",)}, "the last layer alone adapts", "Raghu et al. 2020, arXiv 1909.09157"),
    "boil": Variant({"adapt": ("body",)}, "all but the last layer adapts", "Oh et al. 2021, arXiv 2008.08882"),
    "film": Variant(
        {"adapt": ("scales", "shifts", "head")},
        "scales and shifts of channels adapt, and the head",
        "Perez et al. 2018, arXiv 1709.07871",
        of_images=True,
    ),
    "lora": Variant({"lora": 4}, "thin products beside the matrices adapt, and the head", "Hu et al. 2022, arXiv 2106.09685"),
    "cavia": Variant(
        {"context": 5},
        "five numbers beside the inputs adapt, no weights",
        "Zintgraf et al. 2019, arXiv 1810.03642",
        of_images=False,
    ),
    "unicorn": Variant(
        {"head": "shared"}, "all classes start from one learned column", "Ye & Chao 2022, arXiv 2106.16245", of_images=True
    ),
    "zero-head": Variant({"head": "zero"}, "all classes start from zeros", "Kao et al. 2022, arXiv 2106.15367", of_images=True),
    "protomaml": Variant(
        {"head": "prototype"},
        "classes start from their mean features",
        "Triantafillou et al. 2020, arXiv 1903.03096",
        of_images=True,
    ),
    "joint-first": Variant(
        {"joint_steps": 3_000},
        "begins from a classifier of all meta-train classes",
        "Chen et al. 2021 (Meta-Baseline), arXiv 2003.04390",
        of_images=True,
    ),
    "bounded": Variant(
        {"inner_clip": 8.0},
        "inner gradients are shortened to a norm of at most 8",
        "Pascanu et al. 2013, arXiv 1211.5063",
    ),
    "averaging": Variant(
        {"average": 0.995},
        "what is kept is a moving average of the parameters",
        "Polyak & Juditsky 1992, SIAM J. Control Optim. 30(4)",
    ),
    "bayes-head": Variant(
        {"adapter": "bayes-head"},
        "Bayes' rule on the last layer, in closed form",
        "Harrison et al. 2018 (ALPaCA), arXiv 1807.08912; of classes, Bertinetto et al. 2019 (R2-D2), 1805.08136",
        of_images=False,
    ),
}
BASE = "maml"
"""The variant that others are set upon: what they say comes after it."""


def with_variants(settings: Settings, names: Sequence[str]) -> Settings:
    """`settings` with those of the variants in place of its own. `maml`, where it is among them, comes first.

    Raises `InputError` for a name that is none, one that is for other problems, and two that set one setting differently.
    """
    taken: dict[str, tuple[str, Any]] = {}
    if names and not isinstance(settings, LearningSettings):
        raise InputError("--variant is for models that predict, not for policies; see --help for their settings.")
    for name in names:
        if name not in VARIANTS:
            raise InputError(f"there is no variant {name!r}; expected one of {', '.join(VARIANTS)}.")
        if VARIANTS[name].of_images not in (None, isinstance(settings, ImageSettings)):
            raise InputError(f"--variant {name} is {'' if VARIANTS[name].of_images else 'not '}for images.")
        for setting, value in VARIANTS[name].settings.items() if name != BASE else ():
            other, known = taken.setdefault(setting, (name, value))
            if known != value:
                raise InputError(
                    f"--variant {other} and {name} both set {as_options({setting: value})[0]}: choose one of them."
                )
    chosen = {setting: value for setting, (_, value) in taken.items()}
    if names and "adapter" not in chosen:
        settings = cast(Settings, settings.candidates().get("gradient", settings))
    return replace(settings, **(VARIANTS[BASE].settings if BASE in names else {}) | chosen)


def as_options(settings: dict[str, Any]) -> list[str]:
    """Settings as words of a command."""
    words: list[str] = []
    for name, value in settings.items():
        option, values = name.replace("_", "-"), value if isinstance(value, tuple) else (value,)
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [
                f"--{option}",
                *(str(each).removesuffix(".0") if isinstance(each, float) else str(each) for each in values),
            ]
    return words
