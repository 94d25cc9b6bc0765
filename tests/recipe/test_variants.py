"""Variants by name: what each sets, what goes with what, and that each learns to adapt on every problem it is for.

Place: fewstep/recipe/variants.py, gradient_learner.py and the contradictions in settings.py. That each is what its paper
says is tested in test_variants.py, test_partial.py, test_gradients.py and test_recipe.py."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from known import slow_but
from PIL import Image

from fewstep import InputError
from fewstep.application import presets, problems
from fewstep.apps.images.omniglot import Omniglot
from fewstep.apps.images.problem import Images
from fewstep.apps.policies.settings import PolicySettings
from fewstep.apps.sine.settings import Sine
from fewstep.apps.tables.settings import Table
from fewstep.recipe.settings import PLAIN_MAML
from fewstep.recipe.variants import VARIANTS, as_options, with_variants
from fewstep.supervised.evaluate import compiled_validation
from fewstep.training.loop import train_in_memory

SMALL = {"meta_steps": 600, "meta_batch_size": 8, "hidden": (20, 20), "adaptation_steps": 3}
OF_NUMBERS = [name for name, variant in VARIANTS.items() if not variant.of_images]
OWN = {
    "reptile": {"meta_steps": 3_000, "outer_rate": 3e-3},
    "imaml": {"proximal": 5.0},
    "meta-curvature": {"inner_rate": 0.01},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve classes of six images: bars at a position of the class's own, in noise."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(12):
        (folder / f"class{number:02}").mkdir()
        for which in range(6):
            image = rng.integers(0, 80, (12, 12))
            image[:, number] += 150
            Image.fromarray(image.astype(np.uint8)).save(folder / f"class{number:02}" / f"{which}.png")
    return str(folder)


def gain(settings, names, own=()):
    """Mean error on meta-validation tasks of the trained parameters: (before adaptation, after it)."""
    settings = replace(with_variants(settings, names), **dict(own))
    problem = settings.build(0)
    params = train_in_memory(problem)

    def error(steps):
        return float(
            compiled_validation(replace(problem, learner=replace(problem.learner, adaptation_steps=steps)))(params, KEY)
        )

    KEY = jax.random.key(1)
    return error(0), error(problem.learner.adaptation_steps)


@pytest.mark.filterwarnings("ignore:implicit")  # of a network, adaptation never quite ends
@pytest.mark.parametrize("name", slow_but(OF_NUMBERS, "maml", "anil", "bootstrap"))
def test_each_variant_learns_to_adapt_to_sine_waves(name):
    before, after = gain(Sine(**SMALL), ["maml", name], OWN.get(name, {}))
    assert after < 0.9 * before, (before, after)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:implicit")
@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.of_images is not False])
def test_each_variant_learns_to_adapt_to_images(name, photos):
    """From columns that are alike, an unadapted model can only guess among two classes. BOIL begins from the classes' means."""
    settings = Images(
        data=photos, size=12, channels=1, ways=2, shots=2, queries=3, filters=8, network="conv4-strided", meta_steps=200,
        test_queries=3, meta_batch_size=4, adaptation_steps=3, log_every=200, parts=(0.5, 0.25, 0.25), validation_tasks=50,
    )  # fmt: skip
    before, after = gain(
        settings,
        ["maml", name],
        {} if name in ("protomaml", "zero-head") else {"head": "prototype" if name == "boil" else "shared"},
    )
    assert after < 0.9 * before, (before, after)


def test_variants_set_what_they_say_and_maml_comes_first():
    anil = with_variants(Sine(), ["anil", "maml"])
    assert anil.adapt == ("head",)
    assert {name: getattr(anil, name) for name in PLAIN_MAML} == PLAIN_MAML
    both = with_variants(Omniglot(), ["maml", "anil", "meta-sgd"])
    assert (both.inner_optimizer, both.adapt, both.multi_step) == ("meta-sgd", ("head",), 0.0)
    assert with_variants(Sine(), []) == Sine()


@pytest.mark.parametrize(
    ("settings", "names", "said"),
    [
        (Sine(), ["no-such"], "there is no variant 'no-such'"),
        (Sine(), ["film"], "film is for images"),
        (Images(), ["cavia"], "cavia is not for images"),
        (Sine(), ["anil", "boil"], "anil and boil both set --adapt"),
        (Sine(), ["meta-sgd", "reptile"], "meta-sgd and reptile both set --inner-optimizer"),
    ],
)
def test_variants_that_do_not_exist_or_fit_are_refused(settings, names, said):
    with pytest.raises(InputError, match=said):
        with_variants(settings, names)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"meta_gradient": "reptile"}, "reptile does not go with --inner-optimizer meta-sgd"),
        ({"meta_gradient": "reptile", "inner_optimizer": "sgd"}, "does not go with --multi-step 0.3"),
        ({"meta_gradient": "implicit", "inner_optimizer": "sgd", "multi_step": 0.0, "adapt": ("head",)}, "with --adapt head"),
        ({"meta_gradient": "evolution", "first_order_until": 0.5}, "evolution does not go with --first-order-until 0.5"),
        ({"meta_gradient": "evolution", "bootstrap": 3, "multi_step": 0.0}, "evolution does not go with --bootstrap 3"),
        ({"bootstrap": 3}, "--bootstrap 3 does not go with --multi-step 0.3"),
        ({"context": 3, "lora": 2}, "--context 3 does not go with --lora or --adapt"),
        ({"adapter": "bayes-head", "lora": 2}, "--adapter bayes-head does not go with --lora 2"),
        ({"lora": -1}, "--lora should be at least 0"),
        ({"proximal": 0.0}, "--proximal should be a positive number"),
        ({"adapt": ("nobody",)}, "expected the name of parameters, got 'nobody'"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        train_in_memory(Sine(meta_steps=1, **settings).build(0))


def test_a_head_that_never_moves_cannot_begin_from_columns_that_are_alike(photos):
    with pytest.raises(InputError, match="--adapt body with --head shared"):
        with_variants(Images(data=photos), ["boil"]).build(0)


def test_a_table_that_chooses_its_adapter_takes_gradient_steps_where_a_variant_needs_them():
    assert list(Table().candidates()) == ["bayes-head", "gradient"]
    assert with_variants(Table(), ["anil"]).adapter == "gradient"
    assert list(Table(adapt=("head",)).candidates()) == ["gradient"]


@pytest.mark.parametrize(
    "problem", [name for name in presets() if not issubclass(problems()[name], PolicySettings)]
)  # these have none
def test_every_variant_can_be_given_as_the_options_that_are_shown(problem, command):
    plain = {"adapter": "gradient", "multi_step": 0.0}
    for name, variant in VARIANTS.items():
        if variant.of_images in (None, problem in ("images", "omniglot")):
            words = ["--meta-steps", "0", *as_options(variant.settings)]
            words += as_options({setting: value for setting, value in plain.items() if setting not in variant.settings})
            code, _, err = command("train", problem, *words)
            assert code == 2
            assert "--meta-steps should be at least 1" in err or "--data" in err, (name, err)
