"""Episodes of images, heads that know no order of classes, and what is measured of them. Place: fewstep/tasks, nn, training."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from fewstep.apps.images import report
from fewstep.apps.images.data import ImageSet
from fewstep.apps.images.format import ImageFormat
from fewstep.apps.images.prediction_sets import class_scores, limits, scoring
from fewstep.apps.images.predictions import TaskPredictions, auroc, is_correct, reliability, similarity, unknown_threshold
from fewstep.apps.images.problem import ImageLearning, Images
from fewstep.apps.images.splits import calibration_photos, describe_prediction_sets, split_groups, split_usable_classes
from fewstep.apps.images.tasks import (
    EpisodeSpec,
    ImageStore,
    Normalization,
    augment,
    class_weights,
    distinct,
    image_tasks,
    interpolate,
    joint_batches,
    view_coordinates,
)
from fewstep.core.maml import adapt, started
from fewstep.core.problem import needed_to_calibrate
from fewstep.core.tasks import Shots
from fewstep.core.types import Episode, Examples
from fewstep.errors import InputError
from fewstep.nn.heads import start_of, with_head
from fewstep.supervised.evaluate import compiled_validation
from fewstep.training import loop

KEY = jax.random.key(0)
PLAIN = Normalization((0.0,), (1 / 255,))
"""leaves bytes as they are"""


def numbered(lengths: list[int]) -> ImageStore:
    """Images of 2 x 2 pixels that hold the number of the image in the first, of its class in the second."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    pixels = np.zeros((owner.size, 2, 2, 1), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = np.arange(owner.size), owner
    start = np.cumsum([0, *lengths[:-1]])
    return ImageStore(jnp.asarray(pixels), jnp.asarray(start), jnp.asarray(lengths))


def cut_tasks(*arguments):
    """The family, its episodes compiled."""
    tasks = image_tasks(*arguments)
    return replace(tasks, episode=jax.jit(tasks.episode))


@pytest.fixture
def family():
    cut = EpisodeSpec(ways=3, shots=Shots(2, 2), queries=3, unknown_classes=2)
    return cut_tasks(numbered([5, 9, 7, 6, 8, 30]), np.array([0, 1, 2, 4, 5]), cut, PLAIN, KEY)


def read(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of the images, of their classes)."""
    inputs = np.round(np.asarray(examples.inputs)).astype(int)
    return inputs[:, 0, 0, 0], inputs[:, 0, 1, 0]


def test_an_episode_has_different_images_of_its_classes_and_right_targets(family):
    for number in range(20):
        support, query = family.episode(jnp.asarray(number), jax.random.key(number))
        (given, of_given), (asked, of_asked) = read(support), read(query)
        classes = np.asarray(family.describe(jnp.asarray(number)))
        assert len({*given, *asked}) == given.size + asked.size  # no photo is in both, or twice
        assert len(set(classes)) == 5 and set(classes) <= {0, 1, 2, 4, 5}
        np.testing.assert_array_equal(of_given, np.repeat(classes[:3], 2))
        np.testing.assert_array_equal(classes[np.asarray(support.targets).argmax(1)], of_given)
        np.testing.assert_array_equal(of_asked, [*np.repeat(classes[:3], 3), *classes[3:]])
        assert np.asarray(query.targets)[-2:].sum() == 0  # strangers are of none of the classes


def test_a_task_has_the_same_classes_whoever_asks_and_its_photos_change_with_the_key(family):
    one, other = (family.episode(jnp.asarray(7), jax.random.key(seed)).support for seed in (1, 2))
    np.testing.assert_array_equal(read(one)[1], read(other)[1])
    assert not np.array_equal(read(one)[0], read(other)[0])


def test_all_photos_of_a_class_are_drawn_alike_often():
    drawn = jax.vmap(lambda key: distinct(key, 6, 9, 3))(jax.random.split(KEY, 6000))
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=9)
    assert counts[6:].sum() == 0
    np.testing.assert_allclose(counts[:6], 3000, atol=200)  # five standard deviations


def test_turned_classes_are_turned_alike_in_support_and_query():
    cut = EpisodeSpec(ways=3, shots=Shots(1, 1), queries=1, rotate=True)
    same = numbered([2, 2, 2])._replace(pixels=jnp.tile(jnp.array([[1, 2], [4, 3]], jnp.uint8)[None, ..., None], (6, 1, 1, 1)))
    tasks = cut_tasks(same, np.arange(3), cut, PLAIN, KEY)
    seen = set()
    for number in range(12):
        support, query = tasks.episode(jnp.asarray(number), KEY)
        np.testing.assert_array_equal(support.inputs, query.inputs)
        seen |= {int(value) for value in np.round(np.asarray(support.inputs[:, 0, 0, 0]))}
    assert seen == {1, 2, 3, 4}


def test_a_range_of_shots_gives_weight_to_as_many_support_images_of_every_class():
    tasks = cut_tasks(numbered([9, 9, 9]), np.arange(3), EpisodeSpec(2, Shots(1, 4), 3), PLAIN, KEY)
    weights = [tasks.episode(jnp.asarray(0), jax.random.key(seed)).support.weight.reshape(2, 4) for seed in range(40)]
    counts = {int(weight[0].sum()) for weight in weights}
    assert counts == {1, 2, 3, 4} and all(np.array_equal(weight[0], weight[1]) for weight in weights)
    np.testing.assert_array_equal(tasks.episode(jnp.asarray(0), KEY, 2).support.weight, [1, 1, 0, 0] * 2)


def test_pixels_are_standardized_by_channel_and_come_back():
    pixels = Normalization((0.5, 0.25, 0.1), (0.2, 0.1, 0.5))
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3), dtype=np.uint8)
    expected = (image / 255 - np.array(pixels.mean)) / np.array(pixels.deviation)
    np.testing.assert_allclose(pixels.encode(jnp.asarray(image)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(pixels.decode(pixels.encode(jnp.asarray(image))), image)
    format = ImageFormat(3, 3, pixels)
    assert ImageFormat.from_json(format.to_json()) == format


@dataclass(frozen=True, kw_only=True)
class Blobs(ImageLearning):
    """Images of patterns with noise: 24 classes, 10 images each."""

    network: str = "mlp"  # soon compiled; what is tested here knows nothing of the network
    hidden: tuple[int, ...] = (16,)
    meta_steps: int = 30
    meta_batch_size: int = 4
    adaptation_steps: int = 2
    validation_tasks: int = 8
    test_queries: int = 3
    queries: int = 2
    images_of_a_class: int = 10

    name = "images"
    source = "blobs"

    def read(self):
        random = np.random.default_rng(0)
        pattern = random.random((24, 1, 16, 16, 1)) > 0.6
        images = 160 * pattern + random.normal(40, 30, (24, self.images_of_a_class, 16, 16, 1))
        length = np.full(24, self.images_of_a_class)
        names = tuple(f"class {number}" for number in range(24))
        return ImageSet(np.clip(images, 0, 255).astype(np.uint8).reshape(-1, 16, 16, 1), length, names, ())

    def split(self, found, seed):
        return {"train": np.arange(8), "validation": np.arange(8, 16), "test": np.arange(16, 24)}

    def data_protocol(self):
        return {"data": "blobs", "split": "fixed"}


@pytest.mark.parametrize("head", ["shared", "zero", "prototype"])
def test_predictions_follow_the_classes_when_these_change_places(head):
    problem = Blobs(head=head).build(0)
    params = problem.init(KEY)
    params.theta["head"]["kernel"] = jax.random.normal(KEY, params.theta["head"]["kernel"].shape)
    support, query = jax.jit(problem.splits.test.episode)(jnp.asarray(0), KEY)
    order = jnp.array([3, 0, 4, 1, 2])
    predicted = jax.jit(lambda support: problem.predict(adapt(problem.learner, params, support, KEY), query.inputs))
    outputs = [predicted(each) for each in (support, support._replace(targets=support.targets[:, order]))]
    np.testing.assert_allclose(outputs[1], outputs[0][:, order], rtol=1e-3, atol=1e-4)
    before = problem.predict(started(problem.learner, params, support, KEY), query.inputs)
    assert head == "prototype" or np.ptp(np.asarray(before), axis=1).max() < 1e-5  # nothing is known of any class yet


@pytest.mark.parametrize("ways", [2, 7])
def test_a_model_trained_on_five_classes_adapts_to_any_number(ways):
    problem = Blobs().build(0)
    images = problem.splits.test.episode(jnp.asarray(0), KEY).support.inputs[:1]
    support = Examples(jnp.repeat(images, ways, 0), jnp.eye(ways), jnp.ones(ways))
    adapted = adapt(problem.learner, problem.init(KEY), support, KEY)
    assert problem.predict(adapted, images).shape == (1, ways)


def test_prototypes_are_the_nearest_mean_by_squared_distance():
    from fewstep.core.types import Network

    body = Network(lambda key: {}, lambda params, inputs: inputs)
    network, theta = with_head(body, 4), {"body": {}, "head": {"kernel": jnp.zeros((4, 1)), "bias": jnp.zeros(1)}}
    x = jax.random.normal(KEY, (6, 4))
    support = Examples(x, jnp.tile(jnp.eye(3), (2, 1)), jnp.array([1.0, 1, 1, 1, 1, 0]))
    means = np.stack([(x[0] + x[3]) / 2, (x[1] + x[4]) / 2, x[2]])
    queries = jax.random.normal(jax.random.key(1), (5, 4))
    distance = np.square(np.asarray(queries)[:, None] - means[None]).sum(-1) / 4
    logits = network.apply(start_of("prototype", body)(theta, support, KEY), queries)
    np.testing.assert_allclose(jax.nn.softmax(logits), jax.nn.softmax(-distance), rtol=1e-4)


def test_classes_of_a_group_stay_together_and_parts_are_about_as_asked():
    groups = np.repeat(np.arange(20), [1, 2, 3, 4, 5] * 4)
    parts = split_groups(groups, (0.64, 0.16, 0.2), seed=1)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(groups.size))
    owners = [set(groups[part]) for part in parts.values()]
    assert sum(map(len, owners)) == 20  # no group is in two parts
    for part, share in zip(parts.values(), (0.64, 0.16, 0.2), strict=True):
        assert abs(part.size - share * groups.size) <= 5


@pytest.mark.parametrize("shots", [1, 4, 8])
def test_other_shots_never_move_a_class_to_another_part(shots):
    length = np.random.default_rng(0).integers(6, 30, 60)
    found = ImageSet(np.zeros((int(length.sum()), 1, 1, 1), np.uint8), length, tuple(map(str, range(60))), ())
    halves = lambda found: dict(zip(("train", "validation", "test"), np.split(np.arange(60), [20, 50]), strict=True))  # noqa: E731
    parts, notes = split_usable_classes(found, halves, 2, shots, 5, "data", seed=1)
    allowed = {"train": range(20), "validation": range(20, 50), "calibration": range(20, 50), "test": range(50, 60)}
    for part, classes in parts.items():
        assert set(classes) <= set(allowed[part]) and (length[classes] >= shots + 5).all()
    assert sum(classes.size for classes in parts.values()) == (length >= shots + 5).sum()
    assert bool(notes) == bool((length < shots + 5).any())
    wider, _ = split_usable_classes(found, halves, 2, 1, 5, "data", seed=1)
    assert not parts["calibration"].size or not set(wider["calibration"]) & set(parts["validation"])


def answers_of(log_probabilities, similarity, targets) -> TaskPredictions:
    """Of one number of steps."""
    return TaskPredictions(log_probabilities[:, None], similarity[:, None], targets, np.zeros((len(targets), 2), int))


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    random = np.random.default_rng(0)
    known, strange = random.integers(0, 6, 40).astype(float), random.integers(0, 5, 30).astype(float)
    pairs = [(one > other) + 0.5 * (one == other) for one in known for other in strange]
    assert auroc(known, strange) == pytest.approx(np.mean(pairs))


def test_the_limit_of_none_of_these_accepts_what_it_says_and_takes_the_better_score():
    random = np.random.default_rng(0)
    targets = np.zeros((200, 4, 2))
    targets[:, [0, 1], [0, 1]] = 1  # two known queries, two strangers
    guesses = np.log(random.dirichlet([1, 1], (200, 4)))
    alike = random.normal(np.array([2.0, 2.0, 0.0, 0.0]), 1.0, (200, 4))
    found = unknown_threshold(answers_of(guesses, alike, targets), 0, 1.0)
    assert found["score"] == "similarity" and found["area"]["similarity"] == pytest.approx(0.92, abs=0.03)  # Φ(2 / √2)
    assert (alike[:, :2] >= found["limit"]).mean() == pytest.approx(0.95, abs=0.01)


def test_the_calibration_error_is_zero_where_confidence_is_the_share_of_right_answers():
    random = np.random.default_rng(0)
    chance = random.dirichlet([2.0, 1.0, 1.0], (400, 25))
    truth = (random.random((400, 25, 1)) > chance.cumsum(-1)[..., :-1]).sum(-1)
    targets = np.eye(3)[truth]
    calibrated, sharpened = (reliability(power * np.log(chance), targets, 1.0) for power in (1.0, 3.0))
    assert calibrated["ece"] < 0.02 < 0.1 < sharpened["ece"]
    # Log-probabilities divided by the temperature 3 are calibrated again.
    assert reliability(3.0 * np.log(chance), targets, 3.0)["ece"] < 0.02
    assert sum(each["share"] for each in calibrated["bins"]) == pytest.approx(1)


@pytest.mark.parametrize(("classes", "level"), [(4, 0.8), (9, 0.9), (19, 0.95), (12, 0.8), (30, 0.9)])
def test_sets_by_one_photo_of_each_class_hold_the_right_one_exactly_as_often_as_their_ranks_say(classes, level):
    random, draws = np.random.default_rng(classes), 20_000
    others = random.normal(0, 3, (draws, 1))  # the other classes of the task move all scores alike
    bound = limits((others + random.normal(size=(draws, classes)))[..., None], level)
    inside = (others[:, 0] + random.normal(size=draws)) <= bound
    exact = np.ceil(level * (classes + 1) - 1e-9) / (classes + 1)  # uniform ranks
    assert exact >= level and inside.mean() == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / draws))


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_sets_by_several_photos_of_each_class_keep_their_guarantee_however_classes_differ(spread):
    random, draws, level = np.random.default_rng(0), 20_000, 0.8
    for classes in (4, 9, 24):
        of_class = spread * random.normal(size=(draws, classes + 1, 1))
        scores = of_class + random.normal(size=(draws, classes + 1, 5))
        inside = (scores[:, 0, 0] <= limits(scores[:, 1:], level)).mean()
        assert inside >= 1 - 2 * (1 - level) and level - 0.03 <= inside <= level + 1 / (classes + 1) + 0.03


def test_classes_that_are_too_few_bound_nothing():
    scores = np.random.default_rng(0).random((3, 8, 2))
    assert np.isinf(limits(scores, 0.9)).all() and (limits(scores, 0.8) <= scores.max((1, 2))).all()
    assert [needed_to_calibrate(level) for level in (0.8, 0.9, 0.95)] == [4, 9, 19]


def test_a_calibration_class_stands_in_the_place_of_each_class_with_as_many_photos():
    problem = Blobs().build(0)
    params, random = problem.init(KEY), np.random.default_rng(0)
    calibration = random.integers(0, 256, (3, 6, 16, 16, 1)).astype(np.uint8)
    images, labels = random.integers(0, 256, (5, 16, 16, 1)).astype(np.uint8), np.array([0, 0, 1, 2, 2])
    found = class_scores(scoring(problem, 2), params, images, labels, calibration, 0.7, 0.6)
    assert found.shape == (3, 3, 4)
    for place, counts in enumerate([2, 1, 2]):
        for number in range(3):
            given = images.copy()
            given[labels == place] = calibration[number, :counts]
            encoded = problem.format.pixels.encode(jnp.asarray(given))
            support = Examples(encoded, jnp.eye(3)[labels], jnp.asarray(class_weights(labels, 3)))
            adapted = adapt(problem.learner, params, support, KEY, 2)
            asked = problem.format.pixels.encode(jnp.asarray(calibration[number, counts : counts + 4]))
            chance = jax.nn.softmax(problem.predict(adapted, asked) / 0.7)[:, place]
            np.testing.assert_allclose(found[place, number], 1 - chance, atol=1e-4)


@pytest.mark.parametrize(("classes", "calibrating"), [(13, 0), (14, 4), (18, 8), (19, 9), (40, 20)])
def test_prediction_sets_get_classes_that_meta_validation_can_spare_and_it_is_said(classes, calibrating):
    found = ImageSet(
        np.zeros((10 * (classes + 40), 8, 8, 1), np.uint8), np.full(classes + 40, 10), tuple(range(classes + 40)), ()
    )
    split = lambda found: {"train": np.arange(20), "validation": np.arange(40, 40 + classes), "test": np.arange(20, 40)}  # noqa: E731
    parts, _ = split_usable_classes(found, split, 5, 1, 5, "data", 0)
    assert parts["calibration"].size == calibrating and parts["validation"].size == classes - calibrating
    assert not split_usable_classes(found, split, 5, 1, 5, "data", 0, sets=False)[0]["calibration"].size
    said = describe_prediction_sets(calibrating, classes + 40)
    best = {0: "none", 4: "up to 80 %", 8: "up to 80 %", 9: "up to 90 %", 20: "up to 95 %"}[calibrating]
    assert best in said and f"by {calibrating} of {classes + 40} classes; it takes 4 for 80 %, 9 for 90 %, 19 for 95 %" in said
    assert calibration_photos(found, parts["calibration"], 1, 0).shape[:2] == (calibrating, 10 if calibrating else 0)


@pytest.mark.parametrize(("shift", "tells"), [(0.0, False), (0.3, False), (1.5, True)])
def test_none_of_these_is_left_out_where_strangers_are_hardly_told(shift, tells):
    random = np.random.default_rng(0)
    targets = np.zeros((200, 4, 2))
    targets[:, [0, 1], [0, 1]] = 1
    alike = random.normal(np.array([shift, shift, 0.0, 0.0]), 1.0, (200, 4))
    answers = answers_of(np.full((200, 4, 2), np.log(0.5)), alike, targets)
    answers = answers._replace(classes=random.integers(0, 8, (200, 4)))
    found = unknown_threshold(answers, 0, 1.0)
    told = ndtr(found["limit"]) if shift else 0.05  # strangers are normal, with mean 0 and deviation 1
    assert found["told"] == pytest.approx(told, abs=0.08) and found["told_at_least"] < found["told"]
    assert found["tells"] is tells and found["score"] == ("similarity" if shift else found["score"])


def test_similarity_is_greatest_for_a_class_mean_itself():
    support = jax.random.normal(KEY, (4, 5))
    examples = Examples(support, jnp.repeat(jnp.eye(2), 2, 0), jnp.ones(4))
    mean = (support[:1] + support[1:2]) / 2
    found = similarity(jnp.concatenate([mean, -mean, support[2:3]]), support, examples)
    assert float(found[0]) == pytest.approx(1, abs=1e-5) and float(found.max()) <= 1 + 1e-5


def test_what_is_measured_is_by_task_number_and_complete():
    problem = Blobs().build(0)
    params = problem.init(KEY)
    calibration = report.calibrate_images(problem, params)
    assert calibration["chosen_steps"] in (1, 2, 4, 6) and calibration["temperature"] > 0
    result = report.evaluate_images(problem, params, calibration, (0, 2), 40)
    again = report.evaluate_images(problem, params, calibration, (0, 2), 40)
    assert result == again
    assert result["mean"][0] == pytest.approx(0.2, abs=0.02)  # a shared column tells no class from another
    assert len(result["by_class"]) == result["classes"] == 8 and set(result["by_class"]) <= {
        f"class {i}" for i in range(16, 24)
    }
    assert 0 <= result["none_of_these"]["told"] <= 1 and result["protocol"]["shots"] == 1


def test_accuracy_is_the_share_of_right_answers_over_all_tasks():
    random = np.random.default_rng(0)
    targets = np.tile(np.eye(3)[None], (50, 1, 1))
    found = is_correct(answers_of(random.normal(size=(50, 3, 3)), np.zeros((50, 3)), targets))
    assert found.shape == (50, 1, 3) and 0.2 < found.mean() < 0.47


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ways": 12}, "24 classes have at least 3 images; expected at least 36"),
        ({"shots": 9}, "0 classes have at least 11 images"),
        ({"shots": 0}, "--shots should be at least 1"),
        ({"ways": 1}, "--ways should be at least 2"),
        ({"adapter": "bayes-head"}, "--adapter bayes-head is for tables"),
        ({"normalization": "batch", "shots": (1, 3)}, "--normalization batch needs one number of --shots"),
    ],
)
def test_what_cannot_be_cut_into_episodes_is_said(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        replace(Blobs(), **changes).build(0)


def test_a_missing_folder_is_said():
    with pytest.raises(InputError, match="--data is missing"):
        Images().build(0)
    with pytest.raises(InputError, match="--parts should be"):
        Images(parts=(0.5, 0.5, 0.5)).build(0)


def test_batch_statistics_meet_no_strangers():
    problem = Blobs(normalization="batch", inner_optimizer="sgd").build(0)
    query = problem.images.test.episode(jnp.asarray(0), KEY).query
    assert query.targets.sum(-1).min() == 1
    assert isinstance(Episode(query, query), tuple)


def seen(image, zoom, place, slant=(0.0, 0.0)):
    return interpolate(image, *view_coordinates(jnp.asarray(zoom), jnp.asarray(place), jnp.asarray(slant), *image.shape[:2]))[
        ..., 0
    ]


def test_varied_images_keep_what_they_show_and_a_full_view_is_the_image_itself():
    image = jnp.arange(30.0).reshape(5, 6, 1)
    np.testing.assert_allclose(seen(image, (1.0, 1.0), (0.0, 0.0)), image[..., 0], atol=1e-6)
    np.testing.assert_allclose(seen(image, (1.0, -1.0), (0.0, 0.0)), image[:, ::-1, 0], atol=1e-6)
    flat = jnp.full((40, 8, 8, 1), 3.0)
    np.testing.assert_allclose(jax.jit(lambda key: augment(flat, "characters", key))(KEY), flat, rtol=1e-5)


@pytest.mark.parametrize("place", [-0.4, 0.4])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_part_of_a_line_is_read_at_its_place_and_edges_go_on(place, axis):
    ramp = jnp.broadcast_to(jnp.arange(11.0), (11, 11))[..., None]
    image = jnp.swapaxes(ramp, 0, 1) if axis == 0 else ramp
    only = lambda value, other: (value, other) if axis == 0 else (other, value)  # noqa: E731
    for zoom, reach in ((0.6, 3), (1.4, 7)):
        read = np.asarray(seen(image, only(zoom, 1.0), only(place, 0.0)))
        expected = np.clip(5 * (1 + place) + np.linspace(-reach, reach, 11), 0, 10)
        np.testing.assert_allclose(read[:, 5] if axis == 0 else read[5], expected, atol=1e-5)


def test_slanted_lines_are_moved_along_themselves_as_far_as_they_are_from_the_middle():
    size = 9
    ramp = jnp.broadcast_to(jnp.arange(float(size)), (size, size))[..., None]
    expected = np.clip(np.arange(size)[None] + 0.5 * (np.arange(size) - 4)[:, None], 0, size - 1)
    np.testing.assert_allclose(seen(ramp, (1.0, 1.0), (0.0, 0.0), (0.0, 0.5)), expected, atol=1e-5)
    turned = jnp.swapaxes(ramp, 0, 1)
    np.testing.assert_allclose(seen(turned, (1.0, 1.0), (0.0, 0.0), (0.5, 0.0)), expected.T, atol=1e-5)


def test_opposite_slants_are_nearly_a_turn():
    y, x = np.mgrid[-1:1:15j, -1:1:15j]
    image = jnp.asarray(np.sin(3 * x) * np.cos(2 * y))[..., None]
    angle = 0.1
    turned = np.sin(3 * (np.cos(angle) * x - np.sin(angle) * y)) * np.cos(2 * (np.sin(angle) * x + np.cos(angle) * y))
    read = np.asarray(seen(image, (1.0, 1.0), (0.0, 0.0), (angle, -angle)))
    np.testing.assert_allclose(read[3:-3, 3:-3], turned[3:-3, 3:-3], atol=0.03)


def test_photos_are_mirrored_half_of_the_time_and_each_differs():
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (200, 8, 8, 1))
    found = np.asarray(jax.jit(lambda key: augment(ramp, "photos", key))(KEY))
    rising = (found[:, 0, -1, 0] > found[:, 0, 0, 0]).mean()
    assert 0.35 < rising < 0.65 and np.unique(found[:, 0, 0, 0]).size > 150


@pytest.mark.parametrize("rotate", [False, True])
def test_batches_of_all_classes_have_the_right_labels_and_turned_classes_are_others(rotate):
    photos = numbered([3, 5, 4, 6])
    family = joint_batches(photos, np.array([1, 3]), 64, PLAIN, rotate)
    batch = jax.jit(family.episode)(jnp.asarray(0), KEY).query
    pixels, labels = np.round(np.asarray(batch.inputs)[..., 0]).astype(int), np.asarray(batch.targets).argmax(-1)
    assert batch.targets.shape == (64, 8 if rotate else 2) and np.unique(labels).size == batch.targets.shape[1]
    for image, label in zip(pixels, labels, strict=True):
        upright = np.rot90(image, -(label % 4)) if rotate else image
        assert upright[0, 1] == [1, 3][label // 4 if rotate else label] and upright[1].sum() == 0


@pytest.mark.slow
def test_meta_training_begins_from_the_network_of_joint_training(tmp_path):
    problem = Blobs(joint_steps=40, joint_batch=16, meta_steps=1, outer_rate=1e-30).build(0)
    assert problem.warm_start is not None
    start = problem.init(KEY)
    state = loop.train(problem, tmp_path, quiet=True)
    joint, first = problem.warm_start.problem, loop.train_in_memory(problem.warm_start.problem)
    at_random = jax.tree.leaves(start.theta["body"])
    for trained, solved, untrained in zip(
        jax.tree.leaves(state.params.theta["body"]), jax.tree.leaves(first.theta["body"]), at_random, strict=True
    ):
        np.testing.assert_allclose(trained, solved, rtol=1e-5, atol=1e-6)
        assert not np.allclose(trained, untrained)
    error = compiled_validation(joint)
    assert float(error(first, KEY)) < 0.5 * float(error(joint.init(KEY), KEY))
    assert (tmp_path / loop.PRETRAINING / "metrics.jsonl").is_file()
