"""Would the tests notice? Small faults (mutants), planted one at a time, and the tests that run the changed function.

    python -m benchmarks.changes.mutants calls --tree TREE --out calls.json     # which functions each test file runs; an hour
    python -m benchmarks.changes.mutants draw --tree TREE --out mutants.json
    python -m benchmarks.changes.mutants run --tree TREE --mutants mutants.json --calls calls.json --out found.json

A mutant turns a comparison or a sign, moves a number by one, drops a line or swaps two arguments. It is drawn by a fixed
seed: first a function, then a kind, then a place in it. Each mutant is tried in a copy of TREE, a checkout: the test
files that run its function, the quickest first, until one fails. A record that was interrupted goes on.

To compare two checkouts between which functions were moved and renamed, draw the mutants once, in the older one:

    python -m benchmarks.changes.mutants draw --tree ../before --out mutants.json
    for TREE in ../before and ../after: calls, then run, as above; then
    python -m benchmarks.changes.mutants compare before.json after.json --out docs/records/changes/mutants.json

In ../after the same function is the one with the same body (without docstring and annotations); of several, or of none,
the one of the same name; else the one whose body is most alike. The same place is the one of that kind with the same
text; else the most similar. `run --renames FILE` takes {"old path::name": "new path::name"} for what this does not find.
Functions that are gone are listed in the record and left out by `compare`."""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.records import ROOT, read, write

PARTS = ("maml.py", "losses.py", "gradients", "variants", "training", "supervised/model.py", "supervised/columns.py")
PARTS += ("supervised/kinds.py", "compare/statistics.py", "compare/statistics.py", "core", "supervised")
"""what mutants are planted in, below fewstep/, as far as a checkout has it"""
ALIKE = 0.5
"""least similarity of two bodies, or of two places, that are taken for the same"""
LONGEST = 1800
"""seconds that the tests of one mutant may take; one that takes longer counts as found, since it does not end"""
COMPARISONS: dict[type, type] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq}
COMPARISONS |= {ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
SIGNS: dict[type, type] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


class Place(NamedTuple):
    """Where a mutant can be planted: a node of a function's tree, and what stands there instead."""

    kind: str
    node: Any
    instead: str


class Mutant(NamedTuple):
    """One planted fault."""

    function: str
    """path::qualified name"""
    kind: str
    place: int
    """among those of its kind in the function"""
    before: str
    after: str
    body: str
    """of the function, to find it again in another checkout"""


def functions(root: Path) -> dict[str, ast.FunctionDef]:
    """All functions of `PARTS` by "path::qualified name", in the order of files and lines."""
    found: dict[str, ast.FunctionDef] = {}
    for part in PARTS:
        place = root / "fewstep" / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place] * place.is_file():
            name = str(path.relative_to(root))
            for node in ast.parse(path.read_text()).body:
                for each in node.body if isinstance(node, ast.ClassDef) else [node]:
                    if isinstance(each, ast.FunctionDef):
                        inside = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
                        found[f"{name}::{inside}{each.name}"] = each
    return found


def places(function: ast.FunctionDef) -> Iterator[Place]:
    """All places of a function, in the order of its tree. Annotations, docstrings and messages of errors hold none."""
    skipped = {id(inner) for node in ast.walk(function) for inner in left_alone(node)}
    for node in ast.walk(function):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
            yield place("comparison", node, lambda new: new.ops.__setitem__(0, COMPARISONS[type(new.ops[0])]()))
        elif isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
            yield place("sign", node, lambda new: setattr(new, "op", SIGNS[type(new.op)]()))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
            yield Place("sign", node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            yield Place("off by one", node, str(node.value + 1))
        elif isinstance(node, ast.Call) and len(node.args) >= 2 and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
            yield place("swapped arguments", node, lambda new: new.args.__setitem__(slice(2), new.args[1::-1]))
        elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            yield Place("dropped line", node, "pass")


def place(kind: str, node: Any, change: Callable[[Any], Any]) -> Place:
    new = copy.deepcopy(node)
    change(new)
    return Place(kind, node, f"({ast.unparse(new)})")


def left_alone(node: ast.AST) -> Iterator[ast.AST]:
    """All that is below a node and is no place for a mutant."""
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg) and argument.annotation:
                yield from ast.walk(argument.annotation)
        if isinstance(node, ast.FunctionDef) and node.returns:
            yield from ast.walk(node.returns)
    elif isinstance(node, ast.AnnAssign):
        yield from ast.walk(node.annotation)
    elif isinstance(node, ast.Raise | ast.JoinedStr):  # Python 3.11 does not know the places inside an f-string
        yield from ast.walk(node)


def by_kind(function: ast.FunctionDef) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for each in places(function):
        found.setdefault(each.kind, []).append(each)
    return found


def drawn(root: Path, count: int, seed: int) -> list[Mutant]:
    """So many mutants of a checkout, all different."""
    known, rng, found = functions(root), random.Random(seed), []
    names = list(known)
    while len(found) < count:
        name = rng.choice(names)
        kinds = by_kind(known[name])
        if not kinds:
            names.remove(name)
            continue
        chosen = rng.choice(kinds[rng.choice(sorted(kinds))])
        place = kinds[chosen.kind].index(chosen)
        mutant = Mutant(name, chosen.kind, place, ast.unparse(chosen.node), chosen.instead, body_of(known[name]))
        if mutant not in found:
            found.append(mutant)
    return found


def body_of(function: ast.FunctionDef) -> str:
    """The function without name, decorators, docstring and annotations."""
    new = copy.deepcopy(function)
    new.name, new.decorator_list, new.returns = "f", [], None
    for node in ast.walk(new):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(new)


def alike(one: str, other: str) -> float:
    """From 0 to 1, by words."""
    return SequenceMatcher(None, *(re.findall(r"\w+|[^\w\s]", text) for text in (one, other)), autojunk=False).ratio()


def found_again(mutant: Mutant, known: dict[str, ast.FunctionDef], renames: dict[str, str]) -> tuple[str, Place] | None:
    """The same function, "path::name", and place in another checkout; None if the function is gone."""
    bodies = {name: body_of(function) for name, function in known.items()}
    own = mutant.function.rpartition("::")[2]
    of_name = [name for name in bodies if name.rpartition("::")[2] == own]
    same = [name for name, body in bodies.items() if body == mutant.body]
    candidates = [name for name in same if name in of_name] or same or of_name or list(bodies)
    name = renames.get(mutant.function) or max(candidates, key=lambda name: alike(bodies[name], mutant.body))
    there = by_kind(known[name]).get(mutant.kind, [])
    if not there or (mutant.function not in renames and alike(bodies[name], mutant.body) < ALIKE):
        return None
    nearness = lambda place: -abs(there.index(place) - mutant.place)  # noqa: E731
    place = max(there, key=lambda place: (alike(ast.unparse(place.node), mutant.before), nearness(place)))
    return (name, place) if alike(ast.unparse(place.node), mutant.before) >= ALIKE else None


def planted(text: str, chosen: Place) -> str:
    """The file with one node replaced. Columns of a tree count bytes."""
    lines, node = text.encode().splitlines(keepends=True), chosen.node
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    whole = text.encode()
    return (whole[:start] + chosen.instead.encode() + whole[end:]).decode()


def pytest_of(tree: Path, files: list[str], environment: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    """Runs test files of a tree until the first failure."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *more, *files]
    around = os.environ | {"PYTHONPATH": str(tree)} | environment
    return subprocess.run(command, cwd=tree, env=around, capture_output=True, text=True, timeout=LONGEST, check=False)


def calls(arguments: argparse.Namespace) -> None:
    """Writes {test file: seconds, the functions it runs, the end of its output if it fails}."""
    tree, found = arguments.tree.resolve(), read(arguments.out)

    def of_file(file: str) -> tuple[str, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            called, began = Path(folder) / "called.json", time.monotonic()
            path = os.pathsep.join([str(tree), str(Path(__file__).parent)])
            around = {"PYTHONPATH": path, "FEWSTEP_CALLED": str(called), "FEWSTEP_TREE": str(tree)}
            done = pytest_of(tree, [file], around, "-p", "called")
            result = {"seconds": round(time.monotonic() - began, 1), "functions": json.loads(called.read_text())}
            return file, result | ({} if done.returncode in (0, 5) else {"failed": done.stdout.splitlines()[-5:]})

    files = sorted(str(path.relative_to(tree)) for path in (tree / "tests").rglob("test_*.py"))
    with ThreadPoolExecutor(arguments.at_once) as pool:
        wanted = [file for file in files if file not in found and arguments.only in file]
        for file, result in pool.map(of_file, wanted):
            found[file] = result
            print(f"{file}: {result['seconds']} s, {len(result['functions'])} functions", result.get("failed", ""), flush=True)
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def draw(arguments: argparse.Namespace) -> None:
    mutants = drawn(arguments.tree.resolve(), arguments.count, arguments.seed)
    write(arguments.out, {"seed": arguments.seed, "mutants": [mutant._asdict() for mutant in mutants]})


def run(arguments: argparse.Namespace) -> None:
    """Records the fate of each mutant: whether found, by which test file; None if its function is gone."""
    tree, called = arguments.tree.resolve(), json.loads(arguments.calls.read_text())
    known = functions(tree)
    renames = json.loads(arguments.renames.read_text()) if arguments.renames else {}
    mutants = [Mutant(**each) for each in json.loads(arguments.mutants.read_text())["mutants"]][: arguments.count]
    record: dict[str, Any] = {"mutants": {}} | read(arguments.out)
    quickest = min((file for file in called if "failed" not in called[file]), key=lambda file: called[file]["seconds"])
    if first_failure(tree, [quickest], {}):
        raise SystemExit(f"{quickest} fails in a copy of {tree} without a mutant: every mutant would count as found.")

    def tried(mutant: Mutant) -> tuple[str, dict[str, Any]]:
        there = found_again(mutant, known, renames)
        if there is None:
            return key_of(mutant), {"found": None, "by": "the function is gone"}
        name, place = there
        about = {"function": name, "line": place.node.lineno, "kind": place.kind, "before": mutant.before}
        return key_of(mutant), about | {"after": place.instead} | fate(tree, name, place, called)

    with ThreadPoolExecutor(arguments.at_once) as pool:
        for key, result in pool.map(tried, [each for each in mutants if key_of(each) not in record["mutants"]]):
            record["mutants"][key] = result
            print(f"{len(record['mutants'])} of {len(mutants)}: {key}: {result}", flush=True)
            by = Counter(each["found"] for each in record["mutants"].values())
            write(arguments.out, record | {"found": by[True], "of": by[True] + by[False], "gone": by[None]})


def key_of(mutant: Mutant) -> str:
    return f"{mutant.function}, {mutant.kind} {mutant.place}: {mutant.before} -> {mutant.after}"


def fate(tree: Path, name: str, place: Place, called: dict[str, Any]) -> dict[str, Any]:
    """Whether a test fails with the mutant, and in which file. Test files that fail without it are left out."""
    path = name.partition("::")[0]
    files = [file for file, what in called.items() if name in what["functions"] and "failed" not in what]
    files.sort(key=lambda file: called[file]["seconds"])
    failing = first_failure(tree, files, {path: planted((tree / path).read_text(), place)})
    return {"found": failing is not None, "by": failing or f"{len(files)} files pass"}


def first_failure(tree: Path, files: list[str], changed: dict[str, str]) -> str | None:
    """The first of these test files that fails in a copy of the tree with changed files; one that does not end fails."""
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "tree"
        shutil.copytree(tree, copied, ignore=shutil.ignore_patterns("__pycache__", ".git", ".venv"))
        for path, text in changed.items():
            (copied / path).write_text(text)
        for file in files:
            try:
                if pytest_of(copied, [file], {}).returncode not in (0, 5):
                    return file
            except subprocess.TimeoutExpired:
                return f"{file} does not end"
    return None


def compare(arguments: argparse.Namespace) -> None:
    """The shares found, of the mutants that both checkouts have."""
    before, after = (json.loads(path.read_text())["mutants"] for path in (arguments.before, arguments.after))
    both = [key for key in before if None not in (before[key]["found"], after.get(key, {"found": None})["found"])]
    record: dict[str, Any] = {"mutants": len(both)}
    for name, found in (("before", before), ("after", after)):
        record[name] = sum(found[key]["found"] for key in both) / max(len(both), 1)
        record[f"missed_{name}"] = [key for key in both if not found[key]["found"]]
    record["gone"] = [key for key in before if key not in both]
    print(json.dumps(record, indent=1))
    write(arguments.out, record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for do in (calls, draw, run, compare):
        each = commands.add_parser(do.__name__)
        each.set_defaults(do=do)
        each.add_argument("--out", type=Path, required=True)
        if do is compare:
            each.add_argument("before", type=Path)
            each.add_argument("after", type=Path)
            continue
        each.add_argument("--tree", type=Path, default=ROOT, help="the checkout")
        each.add_argument("--at-once", type=int, default=2, help="processes")
        each.add_argument("--count", type=int, default=150, help="mutants")
        each.add_argument("--seed", type=int, default=0)
        if do is calls:
            each.add_argument("--only", default="", help="part of the names of test files")
        if do is run:
            each.add_argument("--mutants", type=Path, required=True)
            each.add_argument("--calls", type=Path, required=True)
            each.add_argument("--renames", type=Path)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
