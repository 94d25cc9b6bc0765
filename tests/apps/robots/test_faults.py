"""Robots, their faults and what they do: MuJoCo itself is the oracle. Place: fewstep/tasks/{robots,faults,experience}.py."""

import copy
import os
from dataclasses import replace

import numpy as np
import pytest

from fewstep.apps.robots.data import Simulator, collect_experience, random_commands
from fewstep.apps.robots.fault_effects import require_effects
from fewstep.apps.robots.faults import FAMILIES, Change, Faults, read_family
from fewstep.apps.robots.model_fields import is_derived, recompute_constants
from fewstep.errors import InputError
from fewstep.simulators.mujoco import Robot, initial_states

mujoco = pytest.importorskip("mujoco", reason="robots need the extra [rl]")
CART = """<mujoco><option timestep="0.01" gravity="0 0 0"/><worldbody><body name="cart">
<joint name="rail" type="slide" axis="1 0 0"/><joint name="lift" type="slide" axis="0 0 1"/>
<geom name="box" size="0.1" mass="2"/></body></worldbody>
<actuator><motor name="push" joint="rail" gear="3"/></actuator></mujoco>"""
FIXED = '<mujoco><worldbody><site name="s"/></worldbody><actuator><general site="s"/></actuator></mujoco>'
ROBOTS = ["half-cheetah", "ant"]


@pytest.fixture
def cart(tmp_path):
    path = tmp_path / "cart.xml"
    path.write_text(CART)
    return Robot(str(path))


def by_hand(model, state, actions, substeps):
    """Full states of one robot, stepped one by one by `mj_step`."""
    kind, data = mujoco.mjtState.mjSTATE_FULLPHYSICS, mujoco.MjData(model)
    mujoco.mj_setState(model, data, state, kind)
    found = [state]
    for action in actions:
        data.ctrl[:] = action
        for _ in range(substeps):
            mujoco.mj_step(model, data)
        found.append(np.empty_like(state))
        mujoco.mj_getState(model, data, found[-1], kind)
    return np.array(found)


@pytest.mark.parametrize("name", ROBOTS)
def test_many_robots_at_once_move_as_one_by_one_bit_for_bit_with_any_number_of_threads(name):
    robot, random = Robot(name), np.random.default_rng(0)
    faults = Faults(robot, FAMILIES["severe"])
    models = [faults.model(condition) for condition in faults.sample(random, 3)]
    states, actions = initial_states(robot, random, 3), random_commands(robot, random, 3, 6)
    one, two = (Simulator(robot, threads).run(models, states, actions) for threads in (1, 2))
    assert np.array_equal(one, two)
    for model, state, action, found in zip(models, states, actions, one, strict=True):
        assert np.array_equal(found, by_hand(model, state, action, robot.substeps))


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_at_factors_of_1_a_robot_is_healthy_bit_for_bit(name, family):
    robot, random = Robot(name), np.random.default_rng(1)
    faults = Faults(robot, FAMILIES[family])
    states, actions = initial_states(robot, random, 1), random_commands(robot, random, 1, 5)
    found = (Simulator(robot, 1).run([model], states, actions) for model in (robot.model, faults.model(faults.healthy())))
    assert np.array_equal(*found)


def test_the_families_change_what_they_say_and_nothing_else():
    robot = Robot("half-cheetah")
    faults, healthy = Faults(robot, FAMILIES["severe"]), robot.model
    condition = np.array([0.0, -1.0, 0.5, 1.0, 1.0, 1.2, 1.5])
    assert faults.size == 7 and faults.sample(np.random.default_rng(0), 50).shape == (50, 7)
    model, torso = faults.model(condition), 1
    np.testing.assert_allclose(model.actuator_gear[:, 0], healthy.actuator_gear[:, 0] * condition[:6])
    assert model.body_mass[torso] == 1.5 * healthy.body_mass[torso]
    np.testing.assert_allclose(model.body_inertia[torso], 1.5 * healthy.body_inertia[torso])
    assert np.array_equal(model.body_mass[torso + 1 :], healthy.body_mass[torso + 1 :])
    assert np.array_equal(model.geom_friction, healthy.geom_friction)
    assert model.body_subtreemass[0] == pytest.approx(healthy.body_subtreemass[0] + 0.5 * healthy.body_mass[torso])


def test_a_mild_fault_is_of_one_motor_and_the_ground_is_the_same_for_all_feet():
    robot = Robot("half-cheetah")
    drawn = Faults(robot, FAMILIES["mild"]).sample(np.random.default_rng(0), 400)
    others, faulty = drawn[:, :6], drawn[:, 6:]
    assert others.min() >= 0.7 and others.max() <= 1.3
    assert ((faulty != 1).sum(1) == 1).all() and set(np.unique(faulty)) == {-1.0, 0.0, 0.3, 1.0}
    assert np.abs((faulty != 1).mean(0) - 1 / 6).max() < 0.06  # each motor as often as any
    friction = Faults(robot, FAMILIES["friction"])
    assert friction.size == 1
    np.testing.assert_allclose(friction.model(np.array([0.5])).geom_friction, 0.5 * robot.model.geom_friction)


def test_a_cart_of_another_mass_and_gain_moves_as_newton_says(cart):
    faults = Faults(cart, (Change("actuator_gear", (0.5, 2.0)), Change("body_mass", (0.5, 2.0), of=("cart",))))
    model = faults.model(np.array([2.0, 0.5]))
    states = Simulator(cart, 1).run(
        [model], initial_states(cart, np.random.default_rng(0), 1), np.full((1, 10, 1), 0.4, np.float32)
    )
    velocity = states[0, :, 3]  # time, x, z, vx, vz
    np.testing.assert_allclose(np.diff(velocity), 0.4 * (3 * 2.0) / (2 * 0.5) * cart.seconds, rtol=1e-6)


ARM = """<mujoco><option timestep="0.01"/><worldbody><geom name="floor" type="plane" size="5 5 .1"/>
<body name="upper" pos="0 0 1">
<joint name="shoulder" axis="0 1 0" damping=".1" armature="{armature}" limited="true" range="-179 179"/>
<geom type="capsule" fromto="0 0 0 .5 0 0" size=".05" mass="2"/>
<geom name="ghost" size=".1" contype="0" conaffinity="0" mass="0"/>
<body name="lower" pos=".5 0 0"><joint name="elbow" axis="0 1 0" damping=".2"/>
<geom type="capsule" fromto="0 0 0 .4 0 .1" size=".04" mass="{large}"/>
<geom pos=".2 .1 0" size=".04" mass="{small}"/></body></body></worldbody>
<tendon><fixed name="belt"><joint joint="shoulder" coef="1"/><joint joint="elbow" coef="-1"/></fixed></tendon>
<actuator><motor name="push" joint="shoulder" gear="{gear}"/><motor joint="elbow"/><motor tendon="belt"/></actuator></mujoco>"""
AS_BUILT = {"armature": 0.01, "large": 1.0, "small": 0.5, "gear": 3.0}


def arm(folder, **numbers):
    path = folder / "arm.xml"
    path.write_text(ARM.format(**AS_BUILT | numbers))
    robot = Robot(str(path))
    assert robot.model.nu == 3
    return robot


def test_a_robot_with_faults_is_the_robot_that_mujoco_reads_from_a_file_with_these_numbers(tmp_path):
    changes = (("body_mass", "lower", 1.5), ("dof_armature", "shoulder", 3.0), ("actuator_gear", "push", 2.0))
    healthy = arm(tmp_path)
    faults = Faults(healthy, tuple(Change(field, (1.0, 5.0), of=(name,)) for field, name, _ in changes))
    found = faults.model(np.array([factor for *_, factor in changes]))
    expected = arm(tmp_path, large=1.5, small=0.75, armature=0.03, gear=6.0)
    for name in dir(found):
        if isinstance(values := getattr(found, name), np.ndarray) and values.dtype.kind == "f":
            np.testing.assert_allclose(values, getattr(expected.model, name), rtol=1e-9, atol=1e-12, err_msg=name)
    assert found.stat.meaninertia == pytest.approx(expected.model.stat.meaninertia, rel=1e-9)
    assert found.stat.meaninertia > 1.2 * healthy.model.stat.meaninertia
    random = np.random.default_rng(0)
    states, actions = initial_states(expected, random, 1), random_commands(expected, random, 1, 20)
    moved = [Simulator(expected, 1).run([model], states, actions) for model in (found, expected.model)]
    np.testing.assert_allclose(*moved, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "field, instead",
    [
        ("body_subtreemass", "body_mass"),
        ("body_invweight0", "body_mass"),
        ("dof_M0", "body_mass"),
        ("dof_invweight0", "dof_armature"),
        ("actuator_acc0", "actuator_gear"),
        ("actuator_length0", ""),
        ("tendon_length0", ""),
        ("tendon_invweight0", "body_mass"),
        ("geom_rbound", "geom_size"),
        ("geom_aabb", "geom_size"),
    ],
)
def test_what_mujoco_computes_of_other_fields_is_refused_with_these(field, instead, tmp_path):
    with pytest.raises(InputError, match=f"{field}: MuJoCo computes it from other fields.* Change instead: .*{instead}"):
        Faults(arm(tmp_path), (Change(field, (0.5, 2.0)),))


def test_what_mujoco_cannot_change_once_a_model_is_read_is_refused_in_its_words(cart):
    model = cart.model
    assert model.body_simple[1] and is_derived(model, "body_subtreemass") and not is_derived(model, "body_ipos")
    changed = copy.copy(model)
    changed.body_ipos[1] = 0.3
    with pytest.raises(InputError, match=r"MuJoCo .* refuses: .*simple"):
        recompute_constants(changed)


@pytest.mark.parametrize("field", ["jnt_stiffness", "body_gravcomp", "tendon_damping"])
def test_a_multiple_of_0_is_refused(field, tmp_path):
    with pytest.raises(InputError, match=f"{field}: its numbers are 0 here, and so is every multiple"):
        Faults(arm(tmp_path), (Change(field, (0.5, 2.0)),))


@pytest.mark.parametrize(
    "change, complaint",
    [
        (Change("tendon_width", (0.5, 2.0)), "tendon_width: no such factor changes how the robot moves"),
        (Change("geom_size", (0.5, 2.0), of=("ghost",)), "geom_size of geom ghost: no such factor"),
        (Change("geom_friction", (0.5, 2.0), of=("floor", "ghost")), "geom_friction of geom ghost: no such|of geom floor: no"),
        (Change("body_mass", (1.0, 1.0)), "body_mass: no such factor changes"),
        (Change("dof_solref", (0.9, 1.1)), "dof_solref: no such factor changes .* in 80 seconds of random"),
    ],
)
def test_a_change_that_moves_no_robot_otherwise_is_refused_by_its_name(change, complaint, tmp_path):
    faults = Faults(arm(tmp_path), (Change("actuator_gear", (0.5, 2.0), of=("push",)), change))
    with pytest.raises(InputError, match=complaint):
        require_effects(faults)
    require_effects(replace(faults, changes=faults.changes[:1]))


@pytest.mark.parametrize("name", ROBOTS)
def test_every_family_moves_every_robot_that_it_is_for(name):
    for family in FAMILIES.values():
        require_effects(Faults(Robot(name), family))


def test_observations_leave_out_where_a_robot_is():
    cheetah, ant = map(Robot, ROBOTS)
    assert (cheetah.world_coordinates, cheetah.observation_size, cheetah.action_size) == (
        1,
        17,
        6,
    )  # as in Gymnasium's HalfCheetah-v5
    assert (ant.world_coordinates, ant.observation_size, ant.action_size) == (
        2,
        27,
        8,
    )  # as in its Ant-v5, without contact forces
    assert cheetah.seconds == ant.seconds == 0.05
    assert Robot("half-cheetah").limits[0].tolist() == [-1.0] * 6


def test_a_cart_is_observed_without_its_place_on_the_rail_but_with_its_height(cart):
    assert cart.world_coordinates == 1 and cart.observation_size == 3
    assert cart.observation(np.array([9.0, 1.0, 2.0, 3.0, 4.0])).tolist() == [2.0, 3.0, 4.0]


def test_experience_is_the_same_for_the_same_seed_alone():
    faults = Faults(Robot("half-cheetah"), FAMILIES["severe"])
    one, again, other = (
        collect_experience(faults, seed, robots=3, runs=2, steps=4, threads=threads)
        for seed, threads in ((0, 1), (0, 2), (1, 1))
    )
    assert one.observations.shape == (3, 2, 5, 17) and one.actions.shape == (3, 2, 4, 6) and one.conditions.shape == (3, 7)
    assert all(np.array_equal(*pair) for pair in zip(one, again, strict=True))
    assert not np.array_equal(one.observations, other.observations)


def test_robots_whose_simulation_runs_away_are_dropped_and_named(cart):
    faults = Faults(cart, (Change("actuator_gear", among=(1.0, 1e7)),))
    found = collect_experience(faults, 0, robots=12, runs=1, steps=5)
    assert 0 < len(found.dropped) < 12 and len(found.observations) == 12 - len(found.dropped)
    assert all(step >= 1 for _, step in found.dropped) and (found.conditions == 1).all()
    with pytest.raises(InputError, match="of all 2 robots runs away"):
        collect_experience(Faults(cart, (Change("actuator_gear", among=(1e7,)),)), 0, robots=2, runs=1, steps=5)


def test_a_family_of_ones_own_is_a_few_lines_of_yaml(tmp_path):
    path = tmp_path / "load.yaml"
    path.write_text("- {field: body_mass, of: torso, between: [1, 2]}\n- {field: dof_damping, among: [0.5, 1, 2], any: 1}\n")
    assert read_family(str(path)) == (
        Change("body_mass", (1.0, 2.0), of=("torso",)),
        Change("dof_damping", among=(0.5, 1.0, 2.0), any=1),
    )
    assert Faults(Robot("half-cheetah"), read_family(str(path))).size == 1 + 9


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("field: body_mass", "expected a list of changes"),
        ("- {feild: body_mass}", "expected of a change field, between.*got feild"),
        ("- {field: body_mass, between: [2, 1]}", r"either between: \[least, most\] or among"),
        ("- {field: body_mass, between: [a, b]}", "expected between: finite numbers"),
        ("- {field: body_mass}", "either between"),
        ("- {field: body_mass, between: [1, .inf]}", "expected between: finite numbers"),
        ("- {between: [0, 1]}", "without a field"),
        ("- [", "expected YAML"),
        ("- {field: 3, between: [0, 1]}", "expected field: a word, got 3"),
        ("- {field: body_mass, between: [1, 2], any: -1}", "expected any: of at least 0, got -1"),
        ("- {field: body_mass, between: [1, 2], alike: 3}", "expected alike: true or false, got 3"),
        ("- {field: body_mass, between: [1, 1e9]}".replace("1e9", "1.0e+9"), "factors of at most 1,000,000, got 1e"),
        ("[" * 5_000, "nested too deeply"),
        ("- 1\n" * 50_000, "at most 100,000 bytes"),
    ],
)
def test_a_damaged_family_is_said(tmp_path, text, complaint):
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_family(str(path))


@pytest.mark.parametrize(
    "change, complaint",
    [
        (Change("body_mas", (0.5, 2.0)), "such as body_mass"),
        (Change("body_mass", (0.5, 2.0), of=("trunk",)), "no body trunk. It has: world, torso"),
        (Change("body_weight", (0.5, 2.0)), "such as .*body_mass"),
        (Change("body_mass", (-0.5, 2.0)), "factors above 0"),
        (Change("body_mass", (0.0, 0.0)), "factors above 0"),
        (Change("geom_friction", (-0.5, 2.0)), "factors of at least 0"),
        (Change("actuator_gear", among=(0.0,), any=9), "any: 9 is more than the 6"),
        (Change("nq", (0.5, 2.0)), "expected a field of numbers"),
        (Change("geom_rgba", (0.5, 2.0)), "such as (?!.*rgba)"),
        (Change("geom_quat", (0.5, 2.0)), "such as (?!.*quat)"),
        (Change("tendon_stiffness", (0.5, 2.0)), "the robot has none"),
    ],
)
def test_a_change_that_the_robot_does_not_know_is_said(change, complaint):
    with pytest.raises(InputError, match=complaint):
        Faults(Robot("half-cheetah"), (change,))


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("<mujoco><worldbody>", "cannot read it"),
        ("<mujoco/>", "expected a robot with actuators"),
        (FIXED, "with joints"),
        (CART.replace("0.01", "1e-9"), "timestep from"),
        (CART.replace("gear", "ctrlrange='0 1e300' gear"), "ctrlrange within"),
        (None, "found none of them"),
    ],
)
def test_a_robot_that_is_none_is_said_and_mujoco_leaves_no_file(tmp_path, monkeypatch, text, complaint):
    monkeypatch.chdir(tmp_path)
    if text:
        (tmp_path / "robot.xml").write_text(text)
    with pytest.raises(InputError, match=complaint):
        _ = Robot("robot.xml").model
    assert Robot("half-cheetah").model.nu == 6
    assert set(os.listdir(tmp_path)) <= {"robot.xml"}


def test_names_that_are_nearly_right_are_offered():
    with pytest.raises(InputError, match="Did you mean half-cheetah"):
        _ = Robot("halfcheetah").model
    with pytest.raises(InputError, match="Did you mean severe"):
        read_family("sever")
