"""A policy adapted to one task: saved, opened, acting, played. Place: fewstep/apps/policies/adapted.py, `adapt_to_task` in
apps/policies/model.py, fewstep/apps/policies, fewstep/apps/policies/cli.py and policy_play.py,
fewstep/apps/policies/plots.py.

Oracles: the policy's own functions, gymnasium environments stepped by hand, evaluation, pixels at known places.
"""

import json
import subprocess
import sys

import gym_family
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from fewstep import cli, runs
from fewstep.apps.policies.adapted import AdaptedPolicy, Shape, open_policy
from fewstep.apps.policies.gymnasium import factory_of, gym_tasks, with_rendering
from fewstep.apps.policies.locomotion import locomotion
from fewstep.apps.policies.meta_step import evaluate_policy
from fewstep.apps.policies.model import adapt_to_task
from fewstep.apps.policies.plots import REACH, SIDE, points
from fewstep.apps.policies.problems import LOCOMOTION, Nav2d, OwnEnvironment
from fewstep.apps.policies.run import adapt_policy
from fewstep.apps.policies.simulated import evaluate_simulated
from fewstep.errors import InputError
from fewstep.simulators import film

KEY = jax.random.key(3)
SMALL = {"meta_batch_size": 2, "rollouts": 4, "hidden": (8,), "meta_steps": 2, "log_every": 1}


@pytest.fixture(scope="module")
def nav(tmp_path_factory):
    return runs.train(Nav2d(**SMALL), tmp_path_factory.mktemp("nav") / "run", quiet=True)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    settings = OwnEnvironment(env="gym_family:sample", horizon=6, action_scale=0.5, **SMALL)
    return runs.train(settings, tmp_path_factory.mktemp("own") / "run", quiet=True)


def frames_of(moving):
    return len(list(ImageSequence.Iterator(moving)))


def same_bits(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("which", [pytest.param("nav", marks=pytest.mark.slow), "own"])
def test_what_a_policy_brings_while_it_adapts_is_what_evaluation_finds(which, request):
    run = request.getfixturevalue(which)
    problem, params, task = run.problem(), run.params(), np.array([0.2, -0.3], np.float32)
    found = adapt_to_task(problem, params, task, 2, 5, KEY)
    settings = {"steps": 2, "rollouts": 5, "later_rate": problem.later_rate}
    parts = problem.search, problem.environment, problem.policy
    if which == "nav":
        expected = evaluate_policy(*parts, params, jnp.asarray(task), KEY, **settings)
    else:
        expected = jax.tree.map(lambda leaf: leaf[0], evaluate_simulated(*parts, params, [task], KEY, **settings))
    np.testing.assert_allclose(found.judged.returns, expected.returns, rtol=1e-4)
    np.testing.assert_array_equal(found.judged.steps, expected.steps)
    assert len(found.path) == 3 and not found.messages
    same_bits(found.path[0], params.theta)
    moved = [float(np.abs(np.asarray(b["mean"]["layers"][0]["kernel"]) - a["mean"]["layers"][0]["kernel"]).max())
             for a, b in zip(found.path, found.path[1:], strict=False)]  # fmt: skip
    assert all(step > 0 for step in moved)


@pytest.mark.parametrize("which", [pytest.param("nav", marks=pytest.mark.slow), "own"])
def test_an_adapted_policy_opens_as_it_was_saved_and_acts_as_its_parameters_say(which, request, tmp_path):
    run = request.getfixturevalue(which)
    policy, found = adapt_policy(run, np.array([0.1, 0.4]), updates=1)
    opened = open_policy(policy.save(tmp_path / "adapted"))
    same_bits(opened.theta, policy.theta)
    assert opened.shape == policy.shape and opened.about == policy.about and len(opened.about["returns"]) == 2
    assert sorted(path.name for path in (tmp_path / "adapted").iterdir()) == ["adapted.json", "policy.npz"]
    functions = run.problem().policy
    for observation in np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32):
        drawn_from = functions.distribution(found.path[policy.about["kept"]], jnp.asarray(observation))
        action, sampled = np.asarray(functions.mode(drawn_from), float), np.asarray(functions.sample(drawn_from, KEY), float)
        if which == "own":  # a Box of ±0.1, of which an action of 1 is the half
            action, sampled = (np.clip(0.05 * each, -0.1, 0.1) for each in (action, sampled))
        np.testing.assert_allclose(opened.act(observation), action, atol=1e-6)
        np.testing.assert_allclose(opened.act(observation, KEY), sampled, atol=1e-6)


def test_commands_are_those_that_the_environment_is_given():
    for make, shape, actions in [
        (gym_family.Point, (4, 2), np.random.default_rng(0).normal(size=(4, 2)) * 2),
        (gym_family.Buttons, (4,), np.array([0, 2, 1, 0])),
    ]:
        told = []

        class Told(make):
            def step(self, action, told=told):
                told.append(action)
                return super().step(action)

        simulation = gym_tasks(Told, action_scale=0.7)
        simulation.begin(list(simulation.sample_tasks(np.random.default_rng(0), 1)) * 4, [0] * 4)
        simulation.step(actions, np.ones(4, bool))
        assert simulation.action_range is not None
        least, most = (tuple(np.asarray(end).tolist()) for end in simulation.action_range)
        known = Shape(2, simulation.action_size, simulation.discrete, (8,), False, simulation.action_limit, least, most)
        np.testing.assert_allclose([known.command(action) for action in actions], np.reshape(told, shape), atol=1e-6)
    cheetah = locomotion("cheetah-dir")
    assert cheetah.action_range is not None
    least, most = (tuple(end.tolist()) for end in cheetah.action_range)
    known = Shape(17, 6, False, (8,), True, cheetah.action_limit, least, most)
    np.testing.assert_allclose(known.command(np.array([-30.0, -5, 0, 1, 10, 20])), [-1, -0.5, 0, 0.1, 1, 1], atol=1e-9)


def test_an_adapted_policy_acts_without_training_problems_and_simulators(own, tmp_path):
    policy, _ = adapt_policy(own, np.zeros(2), updates=1)
    policy.save(tmp_path / "adapted")
    code = (
        "import sys; from fewstep.apps.policies.adapted import open_policy; "
        f"print(*open_policy({str(tmp_path / 'adapted')!r}).act([0.3, -0.1])); print(*sys.modules)"
    )
    command, modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    np.testing.assert_allclose([float(number) for number in command.split()], policy.act([0.3, -0.1]), atol=1e-6)
    loaded = set(modules.split())
    assert not {"fewstep.training", "fewstep.recipe", "fewstep.supervised", "fewstep.runs", "mujoco", "gymnasium"} & loaded


def test_an_observation_that_does_not_fit_is_told(nav, tmp_path):
    policy, _ = adapt_policy(nav, updates=1)
    with pytest.raises(InputError, match="expected 2 finite numbers, got 3 numbers"):
        policy.act([1, 2, 3])
    with pytest.raises(InputError, match="got some that are not finite"):
        policy.act([1, np.nan])
    with pytest.raises(InputError, match="It is a trained run: adapt it first"):
        open_policy(nav.directory)
    policy.save(tmp_path / "adapted")
    (tmp_path / "adapted" / "policy.npz").write_bytes(b"none")
    with pytest.raises(InputError, match="is damaged"):
        open_policy(tmp_path / "adapted")


def test_the_command_adapts_a_policy_and_counts_the_steps_it_takes(nav, tmp_path, capsys):
    words = ["adapt", str(nav.directory), "--task", "-0.3,0.2", "--updates", "2", "--out", str(tmp_path / "adapted")]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    policy, found = adapt_policy(nav, jnp.array([-0.3, 0.2]), updates=2)
    assert told["returns"] == policy.about["returns"] and len(told["environment_steps"]) == 3
    assert told["environment_steps"][0] == 4 * 100 == int(found.judged.steps[0])  # four trajectories, none is there at once
    same_bits(open_policy(tmp_path / "adapted").theta, policy.theta)
    assert cli.main(words) == 2
    assert "already exists and is not empty" in capsys.readouterr().err
    words[-1] = str(tmp_path / "again")
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    taken = sum(told["environment_steps"][:2])
    assert "task (-0.3, 0.2) of nav2d" in out and f"adapted in {taken:,} environment steps" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--task", "north"], "expected a goal x,y such as 0.3,-0.2"),
        (["--task", "1,2,3"], "expected a goal x,y"),
        (["--updates", "0"], "--updates should be at least 1, got 0"),
        (["--rollouts", "0"], "--rollouts should be at least 1, got 0"),
        (["--seed", "-1"], "--seed should be at least 0, got -1"),
        (["--steps", "3"], "--steps is for images, "),
        (["--env", "gym_family:Buttons"], "does not fit the policy: actions 3, expected 2"),
    ],
)
def test_what_a_policy_cannot_be_adapted_to_is_told_before_anything_is_written(nav, tmp_path, capsys, words, complaint):
    assert cli.main(["adapt", str(nav.directory), "--out", str(tmp_path / "adapted"), *words]) == 2
    assert complaint in capsys.readouterr().err and not (tmp_path / "adapted").exists()


def test_a_run_adapts_in_a_users_environment_of_its_sizes(nav, tmp_path, capsys):
    words = ["--env", "gym_family:Point", "--task", "[0.1, 0.3]", "--updates", "1", "--json"]
    assert cli.main(["adapt", str(nav.directory), "--out", str(tmp_path / "adapted"), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["env"] == "gym_family:Point" and told["task"] == [0.1, 0.3]
    policy = open_policy(tmp_path / "adapted")
    assert policy.shape.least == pytest.approx((-0.1, -0.1)) and policy.shape.limit == 1
    assert cli.main(["play", str(tmp_path / "adapted"), "--out", str(tmp_path / "film.gif")]) == 2
    assert "--env gym_family:Point" in capsys.readouterr().err.splitlines()[-1]
    words = ["play", str(tmp_path / "adapted"), "--out", str(tmp_path / "film.gif"), "--env", "gym_family:Buttons"]
    assert cli.main(words) == 2
    assert "does not fit the policy: actions 3, expected 2" in capsys.readouterr().err


def test_tasks_of_own_environments_are_read_as_they_are_drawn():
    point, buttons = (OwnEnvironment(env=f"gym_family:{name}").build() for name in ("Point", "Buttons"))
    task = point.read_task("[0.4, -1]")
    assert isinstance(task, np.ndarray) and task.tolist() == [0.4, -1.0]
    assert buttons.read_task('{"pays": 2}') == {"pays": 2} and buttons.read_task("red") == "red"
    for words in ("0.4", "[1, 2, 3]", "north"):
        with pytest.raises(InputError, match=r"--task: expected one such as the environment draws, \[0\.\d+, -?0\.\d+\], got"):
            point.read_task(words)


def test_directions_and_velocities_are_read_from_words():
    read = {name: kind().build().read_task for name, kind in LOCOMOTION.items()}
    assert read["cheetah-dir"]("-1") == -1.0 and read["ant-vel"]("1.25") == 1.25
    for name, words in (("cheetah-dir", "0.5"), ("ant-dir", "left"), ("cheetah-vel", "nan")):
        with pytest.raises(InputError, match=f"--task of {name}: expected .* got '{words}'"):
            read[name](words)


def test_a_film_shows_the_policy_before_and_after_each_update_and_an_adapted_one_alone(nav, tmp_path, capsys):
    out = tmp_path / "film.gif"
    words = ["play", str(nav.directory), "--task", "0.4,0.4", "--updates", "2", "--out", str(out), "--json"]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["played"]) == ["before", "after 1 update", "after 2 updates"] and told["picture"] == str(out)
    with Image.open(out) as moving:
        assert frames_of(moving) == 51 and moving.size[0] == 3 * SIDE + 2 * film.GAP
    policy, _ = adapt_policy(nav, jnp.array([0.4, 0.4]), updates=2)
    assert [row["mean_return"] for row in told["played"].values()] == policy.about["returns"]
    policy.save(tmp_path / "adapted")
    assert cli.main(["play", str(tmp_path / "adapted"), "--out", str(tmp_path / "one.gif"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)["played"]["adapted"]
    assert alone["return"] == pytest.approx(told["played"]["after 2 updates"]["return"], rel=1e-5)  # from the same beginning


def test_an_own_environment_draws_itself_where_it_can(own, tmp_path, capsys):
    out = tmp_path / "film.webp"
    words = ["play", str(own.directory), "--task", "[0.4, 0]", "--updates", "1", "--out", str(out), "--env"]
    assert cli.main([*words, "gym_family:sample", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["played"]) == 2
    with Image.open(out) as moving:
        assert moving.size[0] == 2 * 60 + film.GAP
        red, green, _ = np.array(moving.convert("RGB"))[film.HEAD + 20, 30].astype(int)
        assert abs(red - 128) < 12 and abs(green - 128) < 12  # it begins in the middle
        assert frames_of(moving) == 4
    out.unlink()
    assert cli.main([*words, "gym_family:Point"]) == 0
    told = capsys.readouterr().out
    assert "no picture" in told and "render_mode" in told and "after 1 update" in told and not out.exists()
    assert cli.main(words[:-1]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("--env gym_family:sample")


def test_a_factory_is_told_to_draw_where_it_takes_that():
    assert with_rendering(factory_of("gym_family:sample"))().render_mode == "rgb_array"
    assert gym_tasks(with_rendering(gym_family.Point)).snapshot is None


def test_a_point_and_its_goal_are_drawn_where_they_are():
    places = np.array([[0.0, 0.0], [-0.5, 0.0], [-0.5, 0.5]])
    picture = points(places, np.array([0.5, -0.5]))

    def color(image, x, y):
        across, up = ((1 + part / REACH) / 2 * SIDE for part in (x, -y))
        return np.array(image.getpixel((round(across), round(up))))

    begun, done = picture(0), picture(2)
    assert np.allclose(color(begun, 0.5, -0.5), [0x22, 0x88, 0x33], atol=12)
    assert np.allclose(color(begun, -0.25, 0), 255, atol=3) and color(done, -0.25, 0)[0] < 200
    assert np.allclose(color(done, -0.5, 0.5), [0x33, 0x22, 0x88], atol=12)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--fault", "severe"], "--fault is for robot-faults; "),
        (["--seconds", "3"], "--seconds is for robot-faults; "),
        (["--task", "north"], "expected a goal x,y"),
        (["--updates", "0"], "--updates should be at least 1"),
    ],
)
def test_what_cannot_be_played_is_told(nav, tmp_path, capsys, words, complaint):
    assert cli.main(["play", str(nav.directory), "--out", str(tmp_path / "film.gif"), *words]) == 2
    assert complaint in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_adapted_policy_stays_what_it_is():
    with pytest.raises(AttributeError):
        AdaptedPolicy(Shape(2, 2, False, (8,), False), {}).theta = {}  # type: ignore[misc]
