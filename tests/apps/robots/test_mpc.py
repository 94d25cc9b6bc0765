"""Driving by looking ahead while a fault strikes: a cart whose law is known is the oracle. Place: fewstep/driving.py,
fewstep/simulators/film.py, fewstep/cli/play.py, fewstep/apps/robots/cli.py."""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from fewstep.apps.robots.cli import played
from fewstep.apps.robots.faults import Change, Faults
from fewstep.apps.robots.mpc import TILTED, Driver, Planner, adapt_every, cem, colored_noise, running_reward, upright
from fewstep.errors import InputError
from fewstep.simulators import film
from fewstep.simulators.mujoco import Robot

mujoco = pytest.importorskip("mujoco", reason="robots need the extra [rl]")
CART = """<mujoco><option timestep="0.01" gravity="0 0 0"/><worldbody><body name="cart">
<joint name="rail" type="slide" axis="1 0 0"/><joint name="lift" type="slide" axis="0 0 1"/>
<geom name="box" size="0.1" mass="2"/></body></worldbody>
<actuator><motor name="push" joint="rail" gear="3"/></actuator></mujoco>"""
STEPS, PUSH = 40, 0.05 * 3 / 2
"""of control, and by how much a push of 1 changes the velocity in one: 0.05 s of 3 N on 2 kg"""


class Newton:
    """What a Driver asks of a Follower: the cart's own law, with a gain that adaptation finds from the last transition."""

    def __init__(self):
        self.change_scale = np.ones(3, np.float32)
        self.forget()

    def forget(self):
        self.params, self.last = jnp.asarray(1.0), None

    def after(self, gain, observation, action):
        velocity = observation[1] + gain * PUSH * action[0]
        return jnp.stack([observation[0] + 0.05 * observation[2], velocity, observation[2]])

    def observe(self, before, action, after):
        self.last = before, action, after
        return True

    def adapt(self):
        assert self.last is not None
        before, action, after = self.last
        if abs(action[0]) > 0.1:
            self.params = jnp.asarray((after[1] - before[1]) / (PUSH * action[0]))
        return True


@pytest.fixture
def cart(tmp_path):
    path = tmp_path / "cart.xml"
    path.write_text(CART)
    return Robot(str(path))


@pytest.fixture
def driver(cart):
    return Driver(Newton(), cart, Planner(5, 60, 2, improve=cem()))


def reversed_at(robot, strikes):
    """The cart whose motor is reversed from that step on."""
    faults = Faults(robot, (Change("actuator_gear", (-1.0, 1.0)),))
    healthy, faulty = faults.model(np.array([1.0])), faults.model(np.array([-1.0]))
    return lambda step: healthy if step < strikes else faulty


def test_a_cart_of_known_law_is_pushed_forward_as_hard_as_it_goes(driver, cart):
    run = driver.drive(reversed_at(cart, STEPS), STEPS, lambda step: None)
    velocities = cart.observation(run.states)[:, 1]
    assert velocities[-1] - velocities[0] == pytest.approx(PUSH * STEPS, rel=0.1)
    assert np.nanmax(run.errors) < 1e-6
    np.testing.assert_allclose(run.rewards, velocities[1:] - 0.01 * np.square(run.actions[:, 0]), rtol=1e-4, atol=1e-4)


def test_where_the_motor_is_reversed_a_model_that_adapts_goes_on_and_one_that_does_not_turns_back(driver, cart):
    models = reversed_at(cart, STEPS // 2)
    kept, followed = (
        driver.drive(models, STEPS, adapt_every(driver.follower, until=until), seed=3) for until in (STEPS // 2, None)
    )
    assert np.array_equal(kept.states[: STEPS // 2], followed.states[: STEPS // 2])
    speeds = [cart.observation(run.states)[:, 1] for run in (kept, followed)]
    assert speeds[0][-1] < speeds[0][STEPS // 2] < speeds[1][-1]
    assert np.nanmean(followed.errors[STEPS // 2 + 2 :]) < 1e-6 < np.nanmean(kept.errors[STEPS // 2 + 2 :])


def test_a_run_is_the_same_for_the_same_seed_and_another_for_another(driver, cart):
    one, again, other = (driver.drive(reversed_at(cart, 5), 10, adapt_every(driver.follower), seed) for seed in (1, 1, 2))
    assert np.array_equal(one.states, again.states) and not np.array_equal(one.states, other.states)


def test_a_robot_that_runs_away_ends_its_run_and_earns_nothing_more(driver, cart):
    faults = Faults(cart, (Change("actuator_gear", (-1e9, 1e9)),))
    healthy, wild = faults.model(np.array([1.0])), faults.model(np.array([1e9]))
    run = driver.drive(lambda step: healthy if step < 6 else wild, STEPS, lambda step: None)
    assert len(run.states) == 7 and np.isfinite(run.states).all()
    assert np.isfinite(run.errors[:6]).all() and np.isnan(run.errors[6:]).all() and not run.rewards[6:].any()


@pytest.mark.parametrize("every", [1, 3])
def test_adaptation_comes_after_every_so_many_steps_until_it_is_to_end(every):
    done = []
    afterwards = adapt_every(SimpleNamespace(adapt=lambda: done.append(step)), every, until=7)  # type: ignore[arg-type]
    for step in range(12):
        afterwards(step)
    assert done == [step for step in range(7) if (step + 1) % every == 0]


def test_a_robot_that_tilts_is_less_upright_by_the_cosine_of_its_angle():
    cheetah, ant = Robot("half-cheetah"), Robot("ant")
    for angle in (0.0, 0.5, math.pi / 2, math.pi):
        leaning = np.zeros(cheetah.observation_size, np.float32)
        leaning[cheetah.names[0].index("rooty")] = angle
        assert float(upright(cheetah, jnp.asarray(leaning))) == pytest.approx(math.cos(angle), abs=1e-6)
        turned = np.zeros(ant.observation_size, np.float32)
        turned[1:5] = math.cos(angle / 2), 0.6 * math.sin(angle / 2), 0.8 * math.sin(angle / 2), 0.0
        assert float(upright(ant, jnp.asarray(turned))) == pytest.approx(math.cos(angle), abs=1e-6)


def test_running_is_worth_its_velocity_less_tilt_and_effort():
    robot = Robot("half-cheetah")
    after = jnp.zeros(robot.observation_size).at[robot.names[0].index("rootx velocity")].set(3.0)
    action = jnp.full(6, 0.5)
    assert float(running_reward(robot)(after, action, after)) == pytest.approx(3.0 - 0.01 * 6 * 0.25)
    after = after.at[robot.names[0].index("rooty")].set(math.pi)
    assert float(running_reward(robot)(after, action, after)) == pytest.approx(3.0 - 2 * TILTED - 0.015)


def test_deviations_of_a_plan_last_as_long_as_they_are_to(float64):
    noise = colored_noise(jax.random.normal(jax.random.key(0), (4000, 20, 2)), 0.7)
    np.testing.assert_allclose(noise.std(0), 1.0, atol=0.05)
    apart = [float(jnp.mean(noise[:, :-gap] * noise[:, gap:])) for gap in (1, 2)]
    np.testing.assert_allclose(apart, [0.7, 0.49], atol=0.02)


def scene(title, steps, strikes, away=None):
    errors = np.full(steps, 0.3)
    errors[steps if away is None else away :] = np.nan
    states = np.zeros((steps + 1 if away is None else away + 1, 3))
    return film.Scene(title, lambda step: step, states, np.linspace(0, 5, steps), errors, strikes)


def test_a_film_has_a_picture_of_every_robot_and_marks_where_the_fault_strikes(tmp_path, monkeypatch):
    class Gray:
        def __init__(self, model):
            assert model == 0

        def picture(self, model, state):
            return Image.new("RGB", (film.WIDTH, film.HEIGHT), "#808080")

    monkeypatch.setattr(film, "Painter", Gray)
    out = tmp_path / "film.gif"
    film.write_film([scene("healthy", 40, None), scene("struck", 40, 20, away=30)], 0.05, out)
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]
    with Image.open(out) as moving:
        assert len(list(ImageSequence.Iterator(moving))) == 20 and moving.size == (
            2 * film.WIDTH + film.GAP,
            film.HEAD + film.HEIGHT + film.CURVE,
        )
        edges = []
        for frame in (2, 15):
            moving.seek(frame)
            edges.append(moving.convert("RGB").getpixel((film.WIDTH + film.GAP + 1, film.HEAD + 50)))
    assert edges[0] == (128, 128, 128) and edges[1][0] > 150 > edges[1][1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from fewstep import runs
    from fewstep.apps.robots.settings import RobotFaults

    settings = RobotFaults(
        robots=(4, 2, 2), runs=1, run_steps=20, shots=5, queries=4, hidden=(8,), meta_steps=5, log_every=5, meta_batch_size=2
    )
    return runs.train(settings, tmp_path_factory.mktemp("runs") / "cheetah", quiet=True)


def test_three_runs_begin_alike_and_part_where_the_fault_strikes(run):
    shown = played(run, "severe", 1.0, 1, 0, lambda text: None)
    assert shown.strikes == 10 and len(shown.fault) == 7 and shown.fault[0].startswith("gain of bthigh x ")
    healthy, kept, adapted = (each.states for each in shown.scenes)
    assert np.array_equal(healthy[:11], kept[:11]) and np.array_equal(kept[:11], adapted[:11])
    assert not np.array_equal(healthy[11], kept[11]) and not np.array_equal(kept[-1], adapted[-1])
    figures = shown.figures()
    assert {row["return_before"] for row in figures.values()} == {figures["healthy"]["return_before"]}


def test_the_command_plays_a_run_and_tells_it_in_words_where_nothing_can_draw(run, command, monkeypatch, tmp_path):
    def nothing(model):
        raise film.NoRenderer("no screen")

    monkeypatch.setattr(film, "Painter", nothing)
    code, out, _ = command("play", run.directory, "--out", tmp_path / "film.gif", "--seconds", "1")
    assert code == 0 and "no picture: MuJoCo finds nothing to draw with here (no screen)" in out and "fault, adapting" in out
    assert not list(tmp_path.glob("film*"))
    code, out, _ = command("play", run.directory, "--out", tmp_path / "film.gif", "--seconds", "1", "--json")
    told = json.loads(out)
    assert code == 0 and told["picture"] is None and "no screen" in told["note"] and len(told["runs"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "film.mp4"], "should end in .gif or .webp"),
        (["--out", "nowhere/film.gif"], "there is no folder nowhere"),
        (["--out", "film.gif", "--seconds", "0.2"], "--seconds from 1 to 600"),
        (["--out", "film.gif", "--adapt-every", "0"], "--adapt-every of at least 1"),
        (["--out", "film.gif", "--fault", "sever"], "Did you mean severe?"),
        (["--out", "film.gif", "--seed", "-1"], "--seed should be at least 0"),
    ],
)
def test_what_cannot_be_played_is_said_before_anything_is_driven(run, command, words, message):
    code, out, err = command("play", run.directory, *words)
    assert code == 2 and message in err and not out


def test_a_run_of_something_else_cannot_be_played(run, monkeypatch):
    from fewstep.apps.sine.settings import Sine

    monkeypatch.setattr("fewstep.apps.robots.cli.RobotFaults", Sine)
    with pytest.raises(InputError, match="expected a run of robot-faults"):
        played(run, "", 1.0, 1, 0, lambda text: None)
