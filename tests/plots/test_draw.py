"""Pictures and printed tables show the figures that a run's files hold, unhidden. Place: fewstep/plots, cli/output.py."""

import datetime
import json

import matplotlib
import numpy as np
import pytest
from known import assert_legible
from matplotlib.collections import LineCollection
from PIL import Image

from fewstep import InputError, plots
from fewstep.apps.rows.plots import unseen_tasks, worst_tasks
from fewstep.cli.output import print_evaluation
from fewstep.plots.curves import adaptation, by_shots, training
from fewstep.plots.style import error_bars, in_words

matplotlib.use("agg")
STEPS = [0, 1, 2, "auto"]
WEEK = 7 * 86_400.0

CONFIG = {"layout": 3, "application": "sine", "problem": "sine", "preset": "default", "settings": {}, "seed": 0}


@pytest.fixture(autouse=True)
def closed():
    """Figures are closed after each test."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def evaluation(names=("north", "south", "east", "west"), **changes):
    """What evaluation.json holds, of four tasks and one target."""
    return {
        "tasks": len(names),
        "metric": "mse",
        "steps": STEPS,
        "mean": [90.0, 20.0, 8.0, 9.0],
        "ci95": [30.0, 9.0, 4.0, 5.0],
        "diverged": [0] * 4,
        "by_task": {name: [100.0, 30.0, 4.0 + 3 * number, 99.0] for number, name in enumerate(names)},
        "by_shots": shots_table(1),
        "protocol": {"shots": 10, "trained_shots": 10, "trained_adaptation_steps": 2},
        **changes,
    }


def shots_table(targets):
    shots = [2, 5, 10, 20]
    intervals = [
        {
            "level": 80,
            "coverage": [0.7 + 0.02 * count - 0.1 * target for target in range(targets)],
            "ci95": [0.1] * targets,
            "width": [50.0 / count * (target + 1) for target in range(targets)],
            "calibrated_on": 9,
        }
        for count in range(1, 5)
    ]
    table = {"shots": shots, "tasks": [12, 12, 12, 11], "before": [50.0, 51.0, 49.0, 50.0], "mean": [20.0, 9.0, 5.0, 3.0]}
    return {**table, "ci95": [6.0, 3.0, 2.0, 1.0], "auto": [25.0, 9.5, 5.1, 3.0], "intervals": intervals}


def task(name, rows=14, dates=False, repeated=False, seed=0):
    rng = np.random.default_rng(seed)
    x = np.arange(rows) * (WEEK if dates else 1.0)
    if repeated:
        x = x // (2 * (WEEK if dates else 1.0))
    truth = 10 * np.sin(np.arange(rows)) + 3
    after = truth + rng.normal(0, 1, rows)
    known = [1, 4, 9]
    return {
        "title": name,
        "x": x.tolist(),
        "truth": truth.tolist(),
        "support_x": x[known].tolist(),
        "support_y": truth[known].tolist(),
        "predictions": [np.full(rows, 2.0).tolist(), (after + 2).tolist(), after.tolist()],
        "lower": (after - 4).tolist(),
        "upper": (after + 4).tolist(),
    }


def illustrations(**changes):
    names = ("north", "south", "east", "west")
    tasks = [task(name, seed=seed) for seed, name in enumerate(names)]
    shown = {"steps": [0, 1, 2], "x": "depth", "y": "flow", "dates": False, "inputs": 1, "level": 80, "tasks": tasks}
    return {**shown, "worst": [tasks[3], tasks[1]], **changes}


def contents(result=None, shown=None, records=(), config=None):
    return {"result": result or {}, "shown": shown or {}, "records": list(records), "config": config or {}}


def labelled(axis):
    handles, labels = axis.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def path_of(band):
    (path,) = band.get_paths()
    return path.vertices


def test_training_draws_every_point_of_the_log():
    records = [{"meta_step": 10 * n, "meta_loss": 3.0 / n} for n in (1, 2, 3)]
    records[1]["validation"] = 0.5
    loss, validation = training(contents(records=records)).axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[10, 3], [20, 1.5], [30, 1]])
    np.testing.assert_allclose(validation.lines[0].get_xydata(), [[20, 0.5]])


def test_errors_by_steps_are_a_curve_over_numbers_and_a_labelled_mark_for_auto():
    figure = adaptation(contents(evaluation()))
    (axis,) = figure.axes
    figure.canvas.draw()
    curve, mark = (container.lines[0] for container in axis.containers)
    np.testing.assert_allclose(curve.get_xydata(), [[0, 90], [1, 20], [2, 8]])
    assert mark.get_ydata().tolist() == [9.0]
    assert mark.get_marker() == "_"
    labels = {label.get_text(): place for place, label in zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)}
    assert labels["auto"] == mark.get_xdata()[0] > 2
    assert "auto" in axis.get_xlabel()
    only_numbers = {"steps": [0, 1, 2], "mean": [90.0, 20.0, 8.0], "ci95": [30.0, 9.0, 4.0]}
    (axis,) = adaptation(contents(evaluation(**only_numbers))).axes
    assert len(axis.containers) == 1
    assert "auto" not in axis.get_xlabel()


def test_errors_that_diverged_are_left_out_and_the_others_are_drawn():
    (axis,) = adaptation(contents(evaluation(mean=[90.0, None, None, 9.0], ci95=[30.0, None, None, None]))).axes
    assert [container.lines[0].get_ydata().tolist() for container in axis.containers] == [[90.0], [9.0]]
    (axis,) = adaptation(contents(evaluation(mean=[None] * 4, ci95=[None] * 4))).axes
    assert axis.containers[0].lines[0].get_ydata().tolist() == []


def test_errors_by_shots_are_those_before_after_and_at_auto_steps_with_coverage_and_width_beside_them():
    config = {"format": {"targets": [{"name": "flow", "scale": 7.0}]}}
    error, coverage, width = by_shots(contents(evaluation(), config=config)).axes
    curves = {container.get_label(): container for container in error.containers}
    found = shots_table(1)
    for label, name in (
        ("before adaptation", "before"),
        ("after adaptation", "mean"),
        ("steps chosen for each task (auto)", "auto"),
    ):
        np.testing.assert_allclose(curves[label].lines[0].get_xydata(), np.transpose([found["shots"], found[name]]))
    (bars,) = curves["after adaptation"].lines[2]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[m - half, m + half] for m, half in zip(found["mean"], found["ci95"], strict=True)])
    np.testing.assert_allclose(coverage.containers[0].lines[0].get_ydata(), [72, 74, 76, 78])
    assert any(line.get_ydata()[0] == 80 for line in coverage.lines)  # what the intervals promise
    np.testing.assert_allclose(width.lines[0].get_ydata(), [50, 25, 50 / 3, 12.5])
    assert width.get_ylabel() == "flow"


def test_widths_of_several_targets_share_an_axis_in_standard_deviations():
    config = {"format": {"targets": [{"name": "flow", "scale": 10.0}, {"name": "heat", "scale": 20.0}]}}
    result = evaluation(by_shots=shots_table(2))
    _, coverage, width = by_shots(contents(result, config=config)).axes
    flow, heat = (labelled(width)[name].get_ydata() for name in ("flow", "heat"))
    np.testing.assert_allclose(flow, np.array([50, 25, 50 / 3, 12.5]) / 10)
    np.testing.assert_allclose(heat, 2 * np.array([50, 25, 50 / 3, 12.5]) / 20)
    assert len(coverage.containers) == 2


def test_without_intervals_there_is_one_panel_and_without_shots_no_picture():
    classes = shots_table(1) | {"intervals": [None] * 4}
    assert len(by_shots(contents(evaluation(by_shots=classes))).axes) == 1
    assert by_shots(contents(evaluation(by_shots=classes | {"shots": []}))) is None
    result = evaluation()
    del result["by_shots"]
    assert by_shots(contents(result)) is None
    assert by_shots(contents()) is None


def test_a_page_has_truth_support_predictions_and_the_shaded_interval_of_every_task():
    shown = illustrations()
    axes = [axis for axis in unseen_tasks(contents(shown=shown)).axes if axis.get_visible()]
    assert len(axes) == 4
    for axis, expected in zip(axes, shown["tasks"], strict=True):
        parts = labelled(axis)
        names = ["truth", "80 % interval", "before adaptation", "after 1 step", "after 2 steps", "support set"]
        assert sorted(parts) == sorted(names)
        np.testing.assert_allclose(parts["truth"].get_xydata(), np.transpose([expected["x"], expected["truth"]]))
        known = np.transpose([expected["support_x"], expected["support_y"]])
        np.testing.assert_allclose(parts["support set"].get_xydata(), known)
        for name, prediction in zip(names[2:5], expected["predictions"], strict=True):
            np.testing.assert_allclose(parts[name].get_ydata(), prediction)
        shaded = path_of(parts["80 % interval"])
        for bound in ("lower", "upper"):
            edge = np.transpose([expected["x"], expected[bound]])
            assert all(np.isclose(shaded, point).all(axis=1).any() for point in edge)
        low, high = axis.get_ylim()
        assert low < min(expected["truth"])
        assert high > max(expected["truth"])


def test_without_bounds_no_interval_is_drawn_or_named():
    bare = task("north")
    del bare["lower"], bare["upper"]
    axis = unseen_tasks(contents(shown=illustrations(tasks=[bare]))).axes[0]
    assert "80 % interval" not in labelled(axis)
    assert not axis.collections


def test_where_an_error_is_a_mean_over_episodes_the_page_says_that_one_of_them_is_drawn():
    several = evaluation()
    several["protocol"] = {**several["protocol"], "episodes_per_task": 10}
    said = worst_tasks(contents(several, illustrations())).legends[0].get_title().get_text()
    assert said.endswith("MSE: of each task the mean over 10 episodes, one of which is drawn")
    assert "episodes" not in worst_tasks(contents(evaluation(), illustrations())).legends[0].get_title().get_text()


def test_the_worst_are_named_with_their_error_after_the_trained_steps():
    axes = worst_tasks(contents(evaluation(), illustrations())).axes
    assert [axis.get_title() for axis in axes] == ["west: MSE 13", "south: MSE 7"]
    assert worst_tasks(contents(evaluation(), illustrations(worst=[]))) is None
    assert worst_tasks(contents(evaluation())) is None
    sine = illustrations(tasks=[task("A = 2, φ = 1")])
    assert unseen_tasks(contents(evaluation(), sine)).axes[0].get_title() == "A = 2, φ = 1"


def test_dates_are_dates_and_a_unit_is_a_line_in_time_though_it_has_other_inputs():
    shown = illustrations(tasks=[task("north", dates=True)], dates=True, inputs=3)
    axis = unseen_tasks(contents(shown=shown)).axes[0]
    truth = labelled(axis)["truth"]
    assert truth.get_linestyle() == "-"
    assert truth.get_xdata()[1] == datetime.datetime(1970, 1, 8)
    assert len(axis.collections) == 1


@pytest.mark.parametrize("changes", [{"inputs": 3}, {"x": "row"}, {"inputs": 2, "dates": True}])
def test_rows_that_x_does_not_tell_apart_are_dots_with_a_bar_each_before_and_after_the_trained_steps(changes):
    dates = changes.get("dates", False)
    one = task("north", dates=dates, repeated=dates)
    axis = unseen_tasks(contents(evaluation(), illustrations(tasks=[one], **changes))).axes[0]
    parts = labelled(axis)
    assert "after 1 step" not in parts  # dots of many steps hide one another
    for name in ("truth", "before adaptation", "after 2 steps", "support set"):
        assert parts[name].get_linestyle() == "None"
        assert parts[name].get_marker() in ("o", ".")
    bars = parts["80 % interval"]
    assert isinstance(bars, LineCollection)
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, np.transpose([one["lower"], one["upper"]]))


def test_classes_are_dots_at_0_and_1_and_probabilities_a_line_between_them():
    one = task("north", repeated=True)
    one |= {"truth": [float(n > 7) for n in range(14)], "support_y": [0.0, 0.0, 1.0], "lower": None, "upper": None}
    one["predictions"] = [np.linspace(0, 1, 14).tolist()] * 3
    axis = unseen_tasks(contents(shown=illustrations(tasks=[one], y="probability of 'yes'"))).axes[0]
    parts = labelled(axis)
    assert parts["truth"].get_linestyle() == "None"
    assert set(parts["truth"].get_ydata()) == {0.0, 1.0}
    assert parts["after 2 steps"].get_linestyle() == "-"
    low, high = axis.get_ylim()
    assert low < 0 < 1 < high
    assert axis.get_yticks().tolist() == [0, 0.5, 1]


def test_what_is_not_finite_or_far_away_does_not_hide_the_truth():
    one = task("north")
    one["predictions"][0] = [None, 1e9, *one["predictions"][0][2:]]
    one["upper"] = [None] * 14
    axis = unseen_tasks(contents(shown=illustrations(tasks=[one]))).axes[0]
    reach, (low, high) = np.ptp(one["truth"]), axis.get_ylim()
    assert reach < high - low < 3 * reach
    flat = task("north") | {"truth": [5.0] * 14, "support_y": [5.0] * 3, "predictions": [[5.0] * 14] * 3}
    low, high = unseen_tasks(contents(shown=illustrations(tasks=[flat]))).axes[0].get_ylim()
    assert low < 5 < high


def boxes(figure):
    """(text, its box in pixels) of all that is written in a figure, but numbers beside points."""
    renderer = figure.canvas.get_renderer()
    texts = [*figure.texts, figure._suptitle, figure._supxlabel, figure._supylabel]
    for axis in (axis for axis in figure.axes if axis.get_visible()):
        texts += [axis.title, axis._left_title, axis.xaxis.label, axis.yaxis.label]
        for ruler in (axis.xaxis, axis.yaxis):
            low, high = sorted(ruler.get_view_interval())  # ticks beyond it are not drawn
            ticks = zip(ruler.get_majorticklocs(), ruler.get_majorticklabels(), strict=True)
            texts += [label for place, label in ticks if low <= place <= high]
    for legend in figure.legends:
        texts += [*legend.get_texts(), legend.get_title()]
    shown = [text for text in dict.fromkeys(texts) if text is not None and text.get_visible() and text.get_text()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown]


@pytest.mark.parametrize(
    ("paint", "count"), [(unseen_tasks, 1), (unseen_tasks, 6), (worst_tasks, 2), (by_shots, 4), (adaptation, 4)]
)
def test_nothing_that_is_written_lies_upon_other_words_or_beyond_the_edge(paint, count):
    tasks = [task(f"a unit called {number}", dates=True, seed=number) for number in range(count)]
    shown = illustrations(tasks=tasks, worst=tasks, dates=True, y="Data.Temperature.Avg Temp", x="Date.Full")
    config = {"format": {"targets": [{"name": "Data.Temperature.Avg Temp", "scale": 1.0}]}}
    result = evaluation(tuple(one["title"] for one in tasks))
    figure = paint(contents(result, shown, config=config))
    figure.canvas.draw()
    found = boxes(figure)
    assert len(found) > 5
    assert_legible(figure, found)


def test_bars_of_positive_figures_end_above_zero_and_are_whole_where_they_can_be():
    down, up = error_bars([10.0, 1.0, -2.0], [4.0, 5.0, None])
    assert down == [4.0, 0.9, 0.0]
    assert up == [4.0, 5.0, 0.0]


def test_metrics_have_names_for_people_and_columns_keep_theirs():
    names = {"mse": "MSE", "log_loss": "log loss", "standardized_mse": "standardized MSE", "mse a_mse": "MSE a_mse"}
    assert {name: in_words(name) for name in names} == names


def test_a_run_has_a_picture_for_each_of_its_files_and_old_ones_go_with_their_figures(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"meta_step": 10, "meta_loss": 1.0}) + "\n")
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation()))
    (tmp_path / "illustrations.json").write_text(json.dumps(illustrations()))
    names = [path.stem for path in plots.draw(tmp_path)]
    assert names == ["training", "adaptation", "shots", "unseen_tasks", "worst_tasks"]
    for name in names:
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 300
    (tmp_path / "illustrations.json").write_text(json.dumps(illustrations(worst=[])))
    assert [path.stem for path in plots.draw(tmp_path)] == names[:-1]
    assert not (tmp_path / "plots" / "worst_tasks.png").exists()


def test_figures_that_cannot_be_drawn_are_refused_before_a_picture_is_replaced(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"meta_step": 10, "meta_loss": 1.0}) + "\n")
    result = evaluation()
    (tmp_path / "evaluation.json").write_text(json.dumps(result))
    before = {path: path.stat().st_mtime_ns for path in plots.draw(tmp_path)}
    result["by_shots"]["shots"][-1] = 10**30  # found when it is drawn, and not before
    (tmp_path / "evaluation.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="damaged or of another version"):
        plots.draw(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def printed(capsys, **changes):
    """What is printed of a result: its lines, none of them too long."""
    print_evaluation({"problem": "table", "split": "test", **evaluation(**changes)})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    return lines


def cells(lines, first):
    """The cells of the row that starts with `first`, of each table that has one."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    return [row for row in rows if row[0] == first]


def test_a_printed_row_by_shots_has_the_errors_the_coverage_and_the_width_of_that_number(capsys):
    lines = printed(capsys)
    assert cells(lines, "auto") == [["auto", "9 ± 5"]]
    assert cells(lines, "10") == [["10", "12", "49", "5 ± 2", "5.1", "76.0 % ± 10.0", "16.67"]]
    assert any("in 80 % intervals" in line for line in lines)


def test_several_targets_print_a_range_of_coverages_and_no_width_and_classes_neither(capsys):
    several = cells(printed(capsys, by_shots=shots_table(2)), "10")
    assert several == [["10", "12", "49", "5 ± 2", "5.1", "66.0 to 76.0 %"]]
    classes = cells(printed(capsys, by_shots=shots_table(1) | {"intervals": [None] * 4}), "10")
    assert classes == [["10", "12", "49", "5 ± 2", "5.1"]]
    some = shots_table(1)
    some["intervals"][0] = None
    assert cells(printed(capsys, by_shots=some), "2")[-1][-2:] == ["too few units", ""]


@pytest.mark.parametrize("others", [1, 2, 9])
def test_further_metrics_are_printed_beside_the_headline_or_where_they_are_many_below_it(capsys, others):
    summary = {"mean": [1.5, 2.5, 3.5, None], "ci95": [0.1, 0.2, 0.3, None], "diverged": [0, 0, 0, 7]}
    names = [f"mse [target] {'long ' * 9}{number}" for number in range(others)]
    lines = printed(capsys, metrics=dict.fromkeys(names, summary))
    text = "\n".join(lines)
    assert "MSE [target]" in text  # brackets are no instructions
    if others < 3:
        assert cells(lines, "1") == [["1", "20 ± 9", *["2.5 ± 0.2"] * others]]
        assert "diverged on 7 of 4 tasks" in text
    else:
        assert text.count("diverged") == others
        assert cells(lines, "1") == [["1", "20 ± 9"]]


def test_the_worst_are_those_after_the_trained_steps_and_a_choice_names_all_candidates(capsys):
    lines = printed(capsys, chosen_from={"bayes-head": 3.0, "gradient": 2.0})
    assert "after 2 steps: median task 8.5; worst: west 13, east 10, south 7" in lines
    assert "gradient was chosen, by the finished models on meta-validation tasks: bayes-head 3, gradient 2" in lines
    lost = printed(capsys, by_task={"north": [1.0, None, None, None]}, by_shots={})
    assert "after 2 steps no task stays finite" in lost
    long = {f"a unit with quite a long name {number}": [1.0] * 4 for number in range(9)}
    printed(capsys, by_task=long, protocol={"trained_adaptation_steps": 2, **{f"part_{n}": "of some length" for n in range(9)}})
