"""Several runs as one figure and one picture. Place: fewstep/plots/seeds.py, fewstep/cli/results.py.

Oracle: the lines that matplotlib was given, SciPy's trimmed mean."""

import json

import numpy as np
import pytest
from scipy import stats

from fewstep import cli
from fewstep.apps.policies.problems import Nav2d
from fewstep.plots.seeds import Panel, seeds_figure
from fewstep.runs.config import write_config

RUNS = np.random.default_rng(0).normal([-40, -12, -4, -3], 1.0, (12, 4))


def lines_of(axis, width):
    return [np.array(line.get_ydata()) for line in axis.lines if line.get_linewidth() == width]


def test_every_seed_is_drawn_and_from_ten_on_the_interquartile_mean():
    methods = {"many": RUNS.tolist(), "few": (RUNS[:3] + 5).tolist(), "one": [[*RUNS[0, :3], None]]}
    figure = seeds_figure([Panel("return", [0, 1, 2, 3], methods)])
    axis = figure.axes[0]
    np.testing.assert_array_equal(lines_of(axis, 0.7)[:12], RUNS)
    middle = lines_of(axis, 1.6)
    np.testing.assert_allclose(middle[0], stats.trim_mean(RUNS, 0.25, axis=0))
    np.testing.assert_allclose(middle[1], RUNS[:3].mean(0) + 5)
    assert len(lines_of(axis, 0.7)) == 12 + 3 + 1 and np.isnan(middle[2][3])
    said = [text.get_text() for text in axis.get_legend().get_texts()]
    assert said == ["many: 12 runs, interquartile mean", "few: 3 runs, mean", "one: 1 run"]
    low, high = (axis.collections[0].get_paths()[0].vertices[:, 1] for _ in range(2))
    assert low.min() < middle[0].min() and high.max() > middle[0].max()


@pytest.fixture
def seeds(tmp_path):
    """Folders as ten trainings of nav2d leave them."""
    settings = Nav2d()
    problem = settings.build(0)
    result = {"problem": "nav2d", "preset": "default", "metric": "return", "tasks": 40, "steps": [0, 1, 2, 3]}
    result |= {"ci95": [1.0] * 4, "protocol": problem.protocol}
    for number, values in enumerate(RUNS[:10]):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        write_config(settings, problem, folder, 0, "default")
        (folder / "evaluation.json").write_text(json.dumps({**result, "mean": values.tolist()}))
    return [str(tmp_path / f"run{number}") for number in range(10)]


def test_results_tells_the_interquartile_mean_of_ten_runs_and_draws_them(seeds, tmp_path, capsys):
    picture = tmp_path / "seeds.png"
    assert cli.main(["results", *seeds, "--plot", str(picture)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    expected = stats.trim_mean(RUNS[:10], 0.25, axis=0)
    assert "A, default: interquartile mean of 10 runs" in told
    assert all(f"after {step} {mean:.4g} [" in told for step, mean in enumerate(expected))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.main(["results", *seeds, "--plot", str(picture)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert cli.main(["results", *seeds[:9]]) == 0
    assert "interquartile" not in capsys.readouterr().out
