"""Pictures of image runs tell right from wrong in words too, and nothing of them is cut off. Place:
fewstep/apps/images/plots.py."""

import base64
import io
import itertools
import json

import matplotlib
import numpy as np
import pytest
from known import assert_legible
from matplotlib.text import Text
from PIL import Image

from fewstep import plots
from fewstep.application import application
from fewstep.apps.images.plots import (
    MOST_QUERIES,
    MOST_SUPPORT,
    RIGHT,
    WRONG,
    accuracy,
    confusion_matrix,
    episodes,
    fitted,
    reliability,
)

matplotlib.use("agg")
LONG = "Juice/Bravo-Apelsinjuice-utan-fruktkött-i-stor-förpackning"

CONFIG = {"layout": 3, "application": "images", "problem": "omniglot", "preset": "default", "settings": {}, "seed": 0}


@pytest.fixture(autouse=True)
def closed():
    """Figures are closed after each test."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def png(shade=0, mode="L", size=(12, 12)):
    """An image of one shade with a corner of 255: ink, where it is ink."""
    image = Image.new(mode, size, shade if mode == "L" else (shade, 90, 30))
    image.paste(255 if mode == "L" else (255, 255, 255), (0, 0, 3, 3))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def episode(ways=3, shots=1, queries=2, wrong=((0, 1),), names=None, **look):
    """One in which query j of class i is taken for the next class, for (i, j) in `wrong`."""
    asked = [
        {
            "image": png(10 * place, **look),
            "truth": place,
            "predicted": (place + 1) % ways if (place, number) in wrong else place,
            "probability": 0.5 + 0.01 * number,
        }
        for place, number in itertools.product(range(ways), range(queries))
    ]
    return {
        "title": f"{ways} ways, {shots} shot{'s' * (shots != 1)}, {len(asked) - len(wrong)} of {len(asked)} right",
        "classes": names or [f"class {place}" for place in range(ways)],
        "support": [[png(200, **look)] * shots for _ in range(ways)],
        "queries": asked,
    }


def contents(*shown, problem="images", result=None):
    page = {"kind": "images", "episodes": list(shown)} if shown else {}
    return {"shown": page, "result": result or {}, "records": [], "config": {"problem": problem}}


def evaluation(steps=(0, 1, 5, 10), mean=(0.2, 0.985, 0.99, 0.991), **changes):
    """What evaluation.json holds of images: accuracy is the headline."""
    half = [0.004, 0.002, 0.001, 0.001]
    bins = [
        {"confidence": c, "accuracy": a, "share": s} for c, a, s in ((0.45, 0.3, 0.02), (0.7, 0.6, 0.08), (0.97, 0.98, 0.9))
    ]
    return {
        "tasks": 600,
        "metric": "accuracy",
        "steps": list(steps),
        "mean": list(mean),
        "ci95": half[: len(steps)],
        "ci95_by_class": [None, *(3 * value for value in half[1 : len(steps)])],
        "calibration": {"temperature": 1.3, "ece_before": 0.034, "ece": 0.012, "bins": bins},
        "protocol": {"ways": 5, "shots": 1, "trained_adaptation_steps": 5, "chosen_adaptation_steps": 10},
        **changes,
    }


def words(figure):
    """(text, its box in pixels) of all that is written in a figure; ticks beyond their axis are not."""
    figure.canvas.draw()
    hidden = set()
    for axis in figure.axes:
        for ruler in (axis.xaxis, axis.yaxis):
            low, high = sorted(ruler.get_view_interval())
            ticks = zip(ruler.get_majorticklocs(), ruler.get_majorticklabels(), strict=True)
            hidden |= {label for place, label in ticks if not low <= place <= high}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in hidden]
    return [(text.get_text(), text.get_window_extent()) for text in found]


def texts(figure):
    return [text for text, _ in words(figure)]


def frames(figure):
    """The color of each frame, in the order of the images."""
    from matplotlib.colors import to_hex

    (axis,) = figure.axes
    return [to_hex(patch.get_edgecolor()) for patch in axis.patches]


def test_every_image_of_an_episode_is_shown_and_a_wrong_prediction_is_told_in_words_and_by_its_frame():
    figure = episodes(contents(episode(wrong=((0, 1), (2, 0)))))
    (axis,) = figure.axes
    assert len(axis.images) == 3 + 3 * 2
    found = texts(figure)
    assert found.count("✓ 50 %") == 2 and found.count("✓ 51 %") == 2
    assert "✗ 51 %\nclass 1" in found and "✗ 50 %\nclass 0" in found
    assert frames(figure).count(RIGHT) == 4
    assert frames(figure).count(WRONG) == 2
    widths = {color: patch.get_linewidth() for color, patch in zip(frames(figure), axis.patches, strict=True)}
    assert widths[WRONG] > widths[RIGHT]  # color is not the only sign


def test_a_class_is_named_without_its_folders_where_these_are_too_long_and_names_differ_without_them():
    long = "a/very/long/way/to/the/folder/of/"
    said = lambda names: texts(episodes(contents(episode(names=names))))  # noqa: E731
    assert "✗ 51 %\ndog" in said([f"{long}cat", f"{long}dog", "bird"])
    assert "✗ 51 %\npet/dog" in said(["pet/cat", "pet/dog", "bird"])
    assert any(text.startswith("✗ 51 %\na/ver") for text in said([f"{long}cat", f"{long}dog", "other/dog"]))


def test_a_block_is_headed_by_its_number_and_title():
    found = texts(episodes(contents(episode(), episode(shots=2))))
    assert "episode 1: 3 ways, 1 shot, 5 of 6 right" in found
    assert "episode 2: 3 ways, 2 shots, 5 of 6 right" in found


def test_a_query_stands_in_the_row_of_its_class():
    (axis,) = episodes(contents(episode())).axes
    rows = {text.get_text(): text.get_position()[1] for text in axis.texts if text.get_text().startswith("class")}
    for image in axis.images:
        shade, middle = int(image.get_array()[-1, -1]), np.mean(image.get_extent()[2:])
        if shade != 200:
            assert middle == pytest.approx(rows[f"class {shade // 10}"])


def test_ink_is_dark_on_light_and_other_images_are_as_they_came():
    dark = episodes(contents(episode(), problem="omniglot")).axes[0].images[0].get_array()
    assert (dark[0, 0], dark[-1, -1]) == (0, 55)
    plain = episodes(contents(episode())).axes[0].images[0]
    assert (plain.get_array()[0, 0], plain.get_array()[-1, -1]) == (255, 200)
    assert plain.get_cmap().name == "gray"
    assert plain.get_clim() == (0, 255)  # the darkest is not stretched to black
    colored = episodes(contents(episode(mode="RGB", size=(20, 10)))).axes[0].images[0]
    assert colored.get_array()[-1, -1].tolist() == [200, 90, 30]
    left, right, bottom, top = colored.get_extent()
    assert (right - left) == pytest.approx(2 * (bottom - top))


def test_more_images_than_fit_are_counted_with_the_wrong_among_them():
    figure = episodes(contents(episode(shots=7, queries=11, wrong=((0, 9), (1, 1)))))
    assert len(figure.axes[0].images) == 3 * (MOST_SUPPORT + MOST_QUERIES)
    found = texts(figure)
    assert found.count("+ 2 more") == 3
    assert found.count("+ 3 more") == 2
    assert "+ 3 more\n(1 wrong)" in found


@pytest.mark.parametrize(("ways", "blocks"), [(2, 3), (5, 3), (10, 2), (20, 1), (30, 1)])
def test_a_page_has_as_many_episodes_as_are_legible(ways, blocks):
    figure = episodes(contents(*[episode(ways=ways, queries=1)] * 5))
    found = texts(figure)
    assert sum(text.startswith("episode") for text in found) == blocks
    assert sum(text.startswith("class") for text in found) == blocks * min(ways, 20)
    assert any(text.startswith("✓ right") and "at most 20 classes" in text for text in found)


NAMES = [LONG, f"{LONG}-2", "Äpple/$mc^2$/Golden Delicious", "W" * 50, "a"]


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(lambda: episodes(contents(*[episode(5, 5, 15, [(n, n) for n in range(5)], NAMES)] * 4)), id="episodes"),
        pytest.param(lambda: episodes(contents(episode(2, 1, 1, ()))), id="few images"),
        pytest.param(lambda: episodes(contents(episode(20, 5, 9, [(n, 2) for n in range(20)], NAMES * 4))), id="20 ways"),
        pytest.param(lambda: accuracy(contents(result=evaluation())), id="accuracy"),
        pytest.param(lambda: reliability(contents(result=evaluation())), id="reliability"),
        pytest.param(lambda: confusion_matrix(NAMES, np.eye(5, dtype=int).tolist(), "photos"), id="5 classes"),
        pytest.param(lambda: confusion_matrix(NAMES * 6, np.eye(30, dtype=int).tolist(), "photos"), id="30 classes"),
        pytest.param(
            lambda: confusion_matrix(["a", "b"], [[1, 0], [0, 1]], "a long title of a few short rows"), id="2 classes"
        ),
    ],
)
def test_nothing_that_is_written_lies_upon_other_words_or_beyond_the_edge(figure):
    figure = figure()
    found = words(figure)
    assert len(found) > 5
    assert_legible(figure, found)


def test_names_are_broken_at_their_joints_and_too_long_ones_inside():
    assert fitted("Golden Delicious", 9.0, 8, 2) == "Golden Delicious"
    assert fitted("Golden-Delicious", 0.8, 8, 2) == "Golden-\nDelicious"
    short = fitted(LONG, 1.2, 8, 2)
    assert short.startswith("Juice/") and "…" in short and short.endswith("ing")
    assert len(short.splitlines()) == 2
    assert fitted("two\nlines", 9.0, 8, 1) == "two lines"


def test_accuracy_has_both_intervals_chance_and_a_close_up_of_what_lies_near_the_best():
    whole, close = accuracy(contents(result=evaluation())).axes
    handles, labels = whole.get_legend_handles_labels()
    parts = dict(zip(labels, handles, strict=True))
    (chance,) = (parts[label] for label in labels if label == "chance (20 %)")
    assert set(chance.get_ydata()) == {20}
    np.testing.assert_allclose(whole.lines[1].get_xydata(), [[0, 20], [1, 98.5], [2, 99], [3, 99.1]])
    np.testing.assert_allclose(close.lines[0].get_ydata(), [98.5, 99, 99.1])
    low, high = close.get_ylim()
    assert 97 < low < 98 and 99.5 < high < 100.5
    by_episode, by_class = (container.lines[2][0].get_segments() for container in close.containers)
    np.testing.assert_allclose(by_episode[0][:, 1], [98.3, 98.7])
    np.testing.assert_allclose(by_class[0][:, 1], [97.9, 99.1])
    assert [label.get_text() for label in close.get_xticklabels()] == ["1", "5\ntrained", "10\nchosen"]


def test_accuracy_is_said_at_the_chosen_steps_else_the_trained_ones_else_the_last():
    assert any(
        "after 10 steps: 99.1 % ± 0.1 (these classes), ± 0.3" in text for text in texts(accuracy(contents(result=evaluation())))
    )
    protocol = {"ways": 5, "shots": "1 to 5", "trained_adaptation_steps": 1}
    found = texts(accuracy(contents(result=evaluation(protocol=protocol))))
    assert any("1 to 5 shots" in text and "after 1 step: 98.5 %" in text for text in found)
    few = evaluation((0, 3), (0.2, 0.4), protocol={"ways": 5, "shots": 5})
    figure = accuracy(contents(result=few))
    assert len(figure.axes) == 1
    assert any("after 3 steps: 40.0 %" in text for text in texts(figure))


def test_accuracy_may_be_a_further_metric_and_what_diverged_is_left_out():
    result = evaluation(mean=[0.2, None, 0.99, 1.0])
    summary = {name: result.pop(name) for name in ("mean", "ci95", "ci95_by_class")}
    result |= {"metrics": {"accuracy": summary}, "metric": "log_loss", "mean": [1.0] * 4}
    whole, close = accuracy(contents(result=result)).axes
    assert whole.lines[1].get_ydata().tolist() == [20, 99, 100]
    assert all(segment.max() <= 100 for c in close.containers for segment in np.array(c.lines[2][0].get_segments())[..., 1])
    assert max(close.get_yticks()) <= 100
    summary["mean"] = [None] * 4
    assert accuracy(contents(result=result)) is None


def test_a_reliability_diagram_has_every_bin_the_diagonal_and_the_shares():
    figure = reliability(contents(result=evaluation()))
    above, below = figure.axes
    diagonal, curve = above.lines
    np.testing.assert_allclose(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(curve.get_xydata(), [[45, 30], [70, 60], [97, 98]])
    np.testing.assert_allclose([bar.get_height() for bar in below.patches], [2, 8, 90])
    assert "1.2 %" in figure.get_suptitle() and "3.4 % before" in figure.get_suptitle()
    assert reliability(contents(result=evaluation(calibration={"temperature": 1.0, "bins": []}))) is None
    one = {"confidence": 0.99, "accuracy": 1.0, "share": 1.0}
    figure = reliability(contents(result=evaluation(calibration=evaluation()["calibration"] | {"bins": [one]})))
    (bar,) = figure.axes[1].patches
    assert bar.get_width() < 5


def test_a_confusion_matrix_has_truth_in_rows_and_is_shaded_by_row():
    figure = confusion_matrix(["cat", "dog"], [[3, 1], [0, 8]], "photos")
    (axis,) = figure.axes
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert {text.get_position(): text.get_text() for text in axis.texts} == {(0, 0): "3", (1, 0): "1", (1, 1): "8"}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "truth")
    assert figure.get_suptitle() == "photos\n11 of 12 right"
    empty = confusion_matrix(["cat", "dog"], [[0, 0], [0, 8]], "photos").axes[0].images[0].get_array()
    assert np.isfinite(empty).all()


@pytest.mark.parametrize(("count", "named"), [(30, 30), (31, 31), (100, 100), (150, 75)])
def test_many_classes_have_no_counts_and_very_many_not_every_name(count, named):
    axis = confusion_matrix([f"class {n}" for n in range(count)], np.eye(count, dtype=int).tolist(), "photos").axes[0]
    assert len(axis.texts) == (30 if count == 30 else 0)
    assert len(axis.get_xticklabels()) == len(axis.get_yticklabels()) == named


@pytest.mark.parametrize("name", ["apple", "\udcffpple"])
def test_an_image_run_has_its_own_pictures_and_none_of_rows_whatever_bytes_are_in_a_name(tmp_path, name):
    confusion_matrix([name, "b"], [[1, 0], [0, 1]], "photos").canvas.draw()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation()))
    shown = {"kind": "images", "episodes": [episode(names=[name, "b", "c"])]}
    (tmp_path / "illustrations.json").write_text(json.dumps(shown))
    names = [path.stem for path in plots.draw(tmp_path)]
    assert names == ["episodes", "accuracy", "reliability"]
    for name in names:
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 300
    (tmp_path / "illustrations.json").unlink()
    assert [path.stem for path in plots.draw(tmp_path)] == ["accuracy", "reliability"]
    assert all(paint(contents()) is None for paint in application("images").figures.values())
