"""Files of robots, of their faults, of what they lived through, and of policies, by the commands that read them. Place:
fewstep/tasks/{faults,robots,experience_file}.py, apps/policies/adapted.py, apps/robots/adapted.py, apps/robots/settings.py."""

import json
import resource
import shutil

import jax
import numpy as np
import odd_faults
import odd_lived
import odd_robots
import pytest
from known import untrained
from odd_json import files_damaged, parts_damaged
from odd_tables import unique

from fewstep.apps.policies.adapted import AdaptedPolicy
from fewstep.apps.policies.problems import Nav2d
from fewstep.apps.policies.run import shape_of
from fewstep.apps.robots.adapted import Follower, open_follower
from fewstep.apps.robots.settings import RobotFaults
from fewstep.errors import InputError
from fewstep.supervised.trained import Trained

pytest.importorskip("mujoco", reason="robots need the extra [rl]")
SMALL = {"shots": 2, "queries": 2, "hidden": (4,), "meta_batch_size": 2}
WORDS = ["--robots", "2", "1", "1", "--runs", "1", "--run-steps", "6", "--shots", "2", "--queries", "2", "--hidden", "4"]
TRAIN = ["train", "robot-faults", *WORDS, "--meta-batch-size", "2", "--out", "out"]
FILES = {
    "families": ("faults.yaml", odd_faults.families, [*TRAIN, "--robot", "cart.xml", "--family", "faults.yaml"], 15),
    "robots": ("robot.xml", odd_robots.robots, [*TRAIN, "--robot", "robot.xml", "--family", "mild"], 13),
    "experiences": ("lived.npz", odd_lived.experiences, [*TRAIN, "--robot", "cart.xml", "--data", "lived.npz"], 11),
}
"""kind -> (file, what it may hold, the command that reads it, every which is tried in the fast slice)"""
PLAY = ["play", "copy", "--out", "out.gif"]
POLICY = {"adapted.json": 30, "policy.npz": 6}
MOST_MEMORY = 1_500
"""megabytes that a case may take beside what was taken before"""


def all_tried(fuzz, record_property, kind, path, contents, words):
    """One command on each content of a file. One test: each alone would take longer to set up than to run."""
    record_property("kind", kind)
    failed = {}
    for name, content in contents.items():
        path.write_bytes(content)
        before = peak()
        try:
            record_property("outcome", fuzz.check(words, ["out", "out.gif"]))
            assert peak() - before < MOST_MEMORY, "it takes much memory"
        except BaseException as error:
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
        shutil.rmtree(fuzz.work / "out", ignore_errors=True)
        (fuzz.work / "out.gif").unlink(missing_ok=True)
    assert not failed, "\n".join(f"{name}: {told}" for name, told in failed.items())


def peak():
    """Megabytes that this process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("every", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_a_file_of_robots_is_used_or_refused(fuzz, record_property, kind, every):
    file, contents, words, some = FILES[kind]
    (fuzz.work / "cart.xml").write_text(odd_robots.CART)
    tried = dict(list(unique(contents()).items())[:: some if every == "some" else 1])
    all_tried(fuzz, record_property, f"robots: {kind}", fuzz.work / file, tried, words)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy as if adapted, with the parameters that it would begin with."""
    problem = Nav2d(hidden=(4,)).build(0)
    settings = {"problem": "nav2d", "preset": "default", "settings": {"hidden": [4]}, "seed": 0}
    about = {
        "run": {"application": "policies", "package": "fewstep", **settings},
        "env": "",
        "task": [0.2, -0.3],
        "updates": 1,
        "returns": [-9.0, -8.0],
        "environment_steps": [9, 9],
    }
    return AdaptedPolicy(shape_of(problem), problem.init(jax.random.key(0)), about).save(
        tmp_path_factory.mktemp("p") / "policy"
    )


def damages(folder, file):
    sound = (folder / file).read_bytes()
    found = dict(files_damaged(sound))
    if file.endswith(".json"):
        found |= {name: text.encode("utf-8", "surrogatepass") for name, text in parts_damaged(json.loads(sound))}
    return found


@pytest.mark.parametrize("file", POLICY)
@pytest.mark.parametrize("every", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_a_damaged_policy_is_played_or_refused(fuzz, policy, record_property, file, every):
    shutil.copytree(policy, fuzz.work / "copy")
    tried = dict(list(damages(policy, file).items())[:: POLICY[file] if every == "some" else 1])
    all_tried(fuzz, record_property, f"robots: {file}", fuzz.work / "copy" / file, tried, PLAY)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["follower.json", "parameters.npz"])
def test_a_damaged_follower_predicts_or_is_refused(tmp_path, monkeypatch, record_property, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cart.xml").write_text(odd_robots.CART)
    settings = RobotFaults(robot="cart.xml", family="mild", robots=(2, 1, 1), runs=1, run_steps=6, **SMALL)
    trained = Trained.of(untrained(settings, tmp_path / "run"))
    Follower(trained.problem, trained.params, trained.config).save(tmp_path / "follower")
    contents, failed = damages(tmp_path / "follower", file), {}
    record_property("kind", f"robots: follower's {file}")
    for name, content in contents.items():
        (tmp_path / "follower" / file).write_bytes(content)
        try:
            follower = open_follower(tmp_path / "follower")
            assert follower.predict(np.zeros(follower.observation_size), np.zeros(follower.action_size)).shape == (
                follower.observation_size,
            )
            record_property("outcome", "usable")
        except InputError:
            record_property("outcome", "refused")
        except BaseException as error:
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
    assert not failed, "\n".join(f"{name}: {told}" for name, told in failed.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cart.xml", "follower", "run"]
