"""The house stands: no import cycles, no import from a floor above, a core without baggage. Place: all of fewstep."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fewstep

ROOT = Path(fewstep.__file__).parent
FLOORS = {
    0: (
        "arrays",
        "cache",
        "command",
        "cores",
        "errors",
        "half",
        "hosts",
        "jaxpr",
        "parts",
        "plain",
        "sound",
        "types",
        "varying",
        "version",
        "whole",
    ),
    1: ("application", "maml", "updates", "gradients", "losses", "nn", "planning", "tasks"),
    2: ("variants", "problem", "driving", "rl", "classics"),
    3: ("training", "problems", "check", "supervised"),
    4: ("runs", "trained", "adapted", "estimators", "plots", "runtime"),
    5: ("supervised_application", "compare"),
    6: ("cli", "testing"),
    7: ("apps",),
}
PARTS_OF_APPLICATIONS = (
    "fewstep.cli.policies",
    "fewstep.cli.policy_play",
    "fewstep.compare.policy_ground",
    "fewstep.problems.policy_settings",
)
"""They belong into the folder of an application, which they alone may import."""
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
MODULES = {
    ".".join(("fewstep", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports_of(path, everywhere=True):
    """Full names of what a file imports, wherever in it (or only while it is loaded); `from a import b` gives a.b."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(name):
    """The module that an imported name lives in: the name itself, or all of it but its last part."""
    return name if name in MODULES else name.rpartition(".")[0]


def room_of(module):
    return module.split(".")[1] if "." in module else ""


@functools.cache
def graph(everywhere=True):
    return {
        module: {module_of(name) for name in imports_of(path, everywhere) if name.split(".")[0] == "fewstep"} - {module}
        for module, path in MODULES.items()
    }


def test_every_file_stands_on_a_floor():
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_a_file_imports_from_its_own_floor_and_from_floors_below_alone(module):
    for imported in graph()[module]:
        assert imported != "fewstep", f"{module} takes a name from the top package, which is made of the floors"
        if module in PARTS_OF_APPLICATIONS and imported.startswith("fewstep.apps.policies"):
            continue
        assert FLOOR_OF[room_of(imported)] <= FLOOR_OF[room_of(module)], f"{module} imports {imported}"


def test_no_file_imports_itself_around_a_corner():
    edges, done, path = graph(), set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for imported in sorted(edges.get(module, ())):
            if not imported.startswith(module + ".") and not module.startswith(imported + "."):
                visit(imported)
        path.pop()
        done.add(module)

    for module in edges:
        visit(module)
    assert done >= set(MODULES)


def test_algorithm_1_imports_jax_optax_and_the_vocabulary_alone():
    allowed = {"__future__", "collections", "dataclasses", "typing", "jax", "optax"}
    names = imports_of(MODULES["fewstep.maml"])
    ours = ("fewstep.types.", "fewstep.sound.", "fewstep.updates.", "fewstep.varying.")
    assert {name for name in names if name.split(".")[0] not in allowed and not name.startswith(ours)} == set()


def test_every_file_opens_by_telling_its_place_and_names_its_own_floor():
    for module, path in MODULES.items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert len(docstring) > 20 or path.name == "__main__.py", module
        for named in re.findall(r"\(floor (\d)", docstring):
            assert int(named) == FLOOR_OF[room_of(module)], module


def test_importing_fewstep_loads_nothing_heavy():
    heavy = {"flax", "orbax", "matplotlib", "tyro", "polars", "rich", "PIL", "scipy.stats"}
    code = "import sys, fewstep; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "fewstep.maml" in loaded
    assert not heavy & loaded


def test_everything_public_is_importable_and_nothing_is_named_twice():
    names = [name for name in vars(fewstep) if not name.startswith("_") and not hasattr(getattr(fewstep, name), "__path__")]
    assert {"Learner", "MetaParams", "Episode", "adapt", "meta_gradient", "meta_step", "BadInput"} <= set(names)
    assert fewstep.__version__.count(".") == 2
