"""The packages stand in layers: no import cycle, no import from a layer above, a core without baggage. Place: all of
fewstep."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import fewstep

ROOT = Path(fewstep.__file__).parent
LAYERS = (
    ("command", "errors", "version"),
    ("core",),
    ("nn", "storage"),
    ("application",),
    ("gradients", "variants"),
    ("recipe", "training"),
    ("simulators", "supervised"),
    ("runs",),
    ("plots",),
    ("compare",),
    ("cli",),
    ("apps", "testing"),
)
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
MODULES = {
    ".".join(("fewstep", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports_of(path):
    """Full names of what a file imports, wherever in it, but for types alone; `from a import b` gives a.b."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    for_types_alone = {
        below
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for below in node.body
    }
    for node in ast.walk(tree):
        if node in for_types_alone:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(name):
    """The module that an imported name lives in: the name itself, or all of it but its last part."""
    return name if name in MODULES else name.rpartition(".")[0]


def package_of(module):
    return module.split(".")[1] if "." in module else ""


@functools.cache
def graph():
    return {
        module: {module_of(name) for name in imports_of(path) if name.split(".")[0] == "fewstep"} - {module}
        for module, path in MODULES.items()
    }


def test_every_package_stands_in_a_layer():
    assert {package_of(module) for module in MODULES} - {""} == set(LAYER_OF)


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_a_module_imports_from_layers_below_its_own_alone(module):
    for imported in graph()[module]:
        assert imported != "fewstep", f"{module} takes a name from the top package, which is made of the others"
        if package_of(imported) != package_of(module):
            assert LAYER_OF[package_of(imported)] < LAYER_OF[package_of(module)] or (module, imported) in OPEN


def test_no_application_imports_another():
    for module in MODULES:
        if package_of(module) == "apps" and module.count(".") > 1:
            own = ".".join(module.split(".")[:3])
            others = {name for name in graph()[module] if name.startswith("fewstep.apps.")}
            others = {name for name in others if not f"{name}.".startswith((f"{own}.", "fewstep.apps.rows."))}
            assert {(module, other) for other in others} <= OPEN


def test_no_module_imports_itself_around_a_corner():
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
    names = imports_of(MODULES["fewstep.core.maml"])
    ours = ("fewstep.core.types.", "fewstep.core.validation.", "fewstep.core.updates.", "fewstep.core.varying.")
    assert {name for name in names if name.split(".")[0] not in allowed and not name.startswith(ours)} == set()


def test_every_module_says_what_it_is_for():
    for module, path in MODULES.items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert len(docstring) > 20 or path.name == "__main__.py", module


def test_importing_fewstep_loads_nothing_heavy():
    heavy = {"flax", "orbax", "matplotlib", "tyro", "polars", "rich", "PIL", "scipy.stats"}
    code = "import sys, fewstep; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "fewstep.core.maml" in loaded
    assert not heavy & loaded


def test_everything_public_is_importable_and_nothing_is_named_twice():
    names = [name for name in vars(fewstep) if not name.startswith("_") and not hasattr(getattr(fewstep, name), "__path__")]
    assert {"Learner", "MetaParams", "Episode", "adapt", "meta_gradient", "meta_step", "InputError"} <= set(names)
    assert fewstep.__version__.count(".") == 2


def drawing():
    """The packages as a Mermaid graph: an arrow from each package to those that it imports, without arrows that follow from
    others."""
    edges = {package: set() for package in LAYER_OF}
    for module, imported in graph().items():
        for other in imported:
            if package_of(module) and package_of(other) and (module, other) not in OPEN:
                edges[package_of(module)].add(package_of(other))
    edges = {package: others - {package} for package, others in edges.items()}

    def reached(package):
        return edges[package].union(*(reached(other) for other in edges[package]))

    lines = ["graph TD"]
    for package in sorted(edges, key=lambda name: (-LAYER_OF[name], name)):
        beyond = set().union(*(reached(other) for other in edges[package]))
        lines += [f"  {package} --> {other}" for other in sorted(edges[package] - beyond)]
    return "\n".join(lines)


def test_the_drawing_of_the_packages_is_made_of_their_imports():
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert drawing() in page, f"expected in docs/architecture.md:\n{drawing()}"


OPEN = {
    ("fewstep.recipe.settings", "fewstep.supervised.columns"),
    ("fewstep.recipe.variants", "fewstep.apps.images.settings"),
}
"""(module, imported): imports against the layers that are left"""
