"""The figures that the presets promise (docs/results.md), on every seed. Slow: ./test -m slow, about a minute a test."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from fewstep import runs
from fewstep.application import presets
from fewstep.apps.sine.tasks import PUBLISHED, Ranges, sine_waves
from fewstep.apps.tables.settings import Table
from fewstep.supervised.trained import Trained

WEATHER = Path(__file__).parents[3] / "shared" / "data" / "weather_us_2016" / "weather.csv"
SEEDS = range(5)


def trained(tmp_path, preset, seed):
    return runs.train(presets()["sine"][preset][0], tmp_path / "run", seed=seed, preset=preset, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_default_recipe_reaches_its_error_after_one_and_five_steps(tmp_path, seed):
    run = trained(tmp_path, "default", seed)
    one, five = run.evaluate([1, 5])["mean"]
    assert one <= 0.30 and five <= 0.010
    assert run.evaluate([5], shots=5)["mean"][0] <= 0.10


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_one_step_preset_beats_the_best_published_one_step_figure(tmp_path, seed):
    assert trained(tmp_path, "one-step", seed).evaluate([1])["mean"][0] <= 0.19


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_tutorial_preset_halves_the_error_of_unseen_tasks_in_one_step(tmp_path, seed):
    before, after = trained(tmp_path, "tutorial", seed).evaluate([0, 1])["mean"]
    assert after <= 0.5 * before and after <= 1.4


@pytest.mark.slow
def test_paper_preset_reaches_the_prototype_at_ten_shots(tmp_path):
    figures = [trained(tmp_path / str(seed), "paper", seed).evaluate([1, 10])["mean"] for seed in range(3)]
    one, ten = np.mean(figures, axis=0)
    assert one <= 0.40 and ten <= 0.13


@pytest.mark.slow
def test_waves_of_greater_amplitude_than_any_of_training_are_flagged_and_others_rarely(tmp_path):
    model = Trained.of(trained(tmp_path, "default", 0))

    def flagged(amplitudes):
        family = sine_waves(jax.random.key(99), 10, 1, ranges=Ranges(amplitudes))
        waves = jax.vmap(family.sample_episode)(jax.random.split(jax.random.key(7), 1000))
        signs = model.report(waves.support, model.trained_steps).ood_features
        return np.mean([model.ood_reason(10, each, model.trained_steps) is not None for each in signs])

    assert flagged((8.0, 10.0)) >= 0.90
    luck = 3 * np.sqrt(0.05 * 0.95 * (1 / 1000 + 1 / 500))  # of 1000 waves that are asked and 500 that calibrate
    assert flagged(PUBLISHED.amplitudes) <= 0.05 + luck


@pytest.mark.slow
@pytest.mark.skipif(not WEATHER.exists(), reason="the weather table is not beside the repository")
def test_weather_of_unseen_stations_from_ten_rows_is_met_by_the_default_recipe(tmp_path):
    settings = Table(
        data=str(WEATHER), task="Station.Code", inputs=("Date.Full",), target=("Data.Temperature.Avg Temp",)
    )  # fmt: skip
    run = runs.train(settings, tmp_path / "run", quiet=True)
    before, after, auto = run.evaluate([0, run.problem().learner.adaptation_steps, "auto"])["mean"]
    assert after <= 13.0 and auto <= 1.01 * after < before


@pytest.mark.slow
def test_a_thousand_meta_steps_of_omniglot_tell_nine_of_ten_characters_apart(tmp_path, real_data):
    settings = replace(
        presets()["omniglot"]["maml-short"][0], data_dir=str(real_data / "omniglot"), meta_steps=1_000, log_every=500
    )
    run = runs.train(settings, tmp_path / "run", quiet=True)
    assert max(run.evaluate(tasks=600)["mean"]) >= 0.90
