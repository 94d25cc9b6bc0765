"""Would the tests notice? Small faults (mutants), planted one at a time, and the tests that run the changed function.

python -m benchmarks.changes.mutants calls --out calls.json     # which functions each test file runs, and how long it takes
python -m benchmarks.changes.mutants run --calls calls.json --out docs/records/changes/mutants.json

A mutant turns a comparison or a sign, moves a number by one, drops a line or swaps two arguments. It is drawn by a fixed seed:
first a function, then a kind, then a place in it. So the same functions under other names, in other files, give the same
mutants (`--functions FILE`, a list of "path::function" in the order of the record of the version before). Each mutant is tried
in a copy of the tree: the test files that run its function, the quickest first, until one test fails. A record goes on where it
was interrupted. `calls` takes an hour of one core, a mutant a few minutes.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.records import read, write

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("maml.py", "losses.py", "gradients", "variants", "training", "problems/supervised.py", "tasks/columns.py")
PARTS += ("tasks/kinds.py", "compare/statistics.py", "compare/intervals.py")
"""what mutants are planted in, below fewstep/"""
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
    line: int
    before: str
    after: str


def functions(root: Path) -> dict[str, ast.FunctionDef]:
    """All functions of `PARTS` by "path::qualified name", in the order of files and lines."""
    found: dict[str, ast.FunctionDef] = {}
    for part in PARTS:
        place = root / "fewstep" / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
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


def draw(root: Path, names: list[str], count: int, seed: int) -> list[tuple[Mutant, str]]:
    """(mutant, the whole file with it) `count` times, of the functions `names`."""
    known, rng, found = functions(root), random.Random(seed), []
    names = [name for name in names if name in known]
    while len(found) < count:
        name = rng.choice(names)
        by_kind: dict[str, list[Place]] = {}
        for each in places(known[name]):
            by_kind.setdefault(each.kind, []).append(each)
        if not by_kind:
            names.remove(name)
            continue
        chosen = rng.choice(by_kind[rng.choice(sorted(by_kind))])
        path = root / name.partition("::")[0]
        text = planted(path.read_text(), chosen)
        before = ast.get_source_segment(path.read_text(), chosen.node) or ""
        mutant = Mutant(name, chosen.kind, chosen.node.lineno, before, chosen.instead)
        if all(mutant != other for other, _ in found):
            found.append((mutant, text))
    return found


def planted(text: str, chosen: Place) -> str:
    """The file with one node replaced. Columns of a tree count bytes."""
    lines, node = text.encode().splitlines(keepends=True), chosen.node
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    whole = text.encode()
    return (whole[:start] + chosen.instead.encode() + whole[end:]).decode()


def test_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / "tests").rglob("test_*.py"))


def pytest_of(tree: Path, files: list[str], *more: str, called: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs test files of a tree until the first failure."""
    tracing = ["-p", "benchmarks.called"] if called else []
    places = {"PYTHONPATH": str(tree), **({"FEWSTEP_CALLED": str(called)} if called else {})}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tracing, *more, *files]
    return subprocess.run(
        command, cwd=tree, env=os.environ | places, capture_output=True, text=True, timeout=LONGEST, check=False
    )


def calls(arguments: argparse.Namespace) -> None:
    found: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}

    def of_file(file: str) -> tuple[str, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            called, began = Path(folder) / "called.json", time.monotonic()
            done = pytest_of(ROOT, [file], called=called)
            result = {"seconds": round(time.monotonic() - began, 1), "functions": json.loads(called.read_text())}
            return file, result | ({} if done.returncode in (0, 5) else {"failed": done.stdout.splitlines()[-5:]})

    with ThreadPoolExecutor(arguments.at_once) as pool:
        for file, result in pool.map(of_file, [file for file in test_files(ROOT) if file not in found]):
            found[file] = result
            print(f"{file}: {result['seconds']} s, {len(result['functions'])} functions", result.get("failed", ""), flush=True)
            write(arguments.out, found)


def run(arguments: argparse.Namespace) -> None:
    called = json.loads(arguments.calls.read_text())
    names = json.loads(arguments.functions.read_text()) if arguments.functions else list(functions(ROOT))
    mutants = draw(ROOT, names, arguments.count, arguments.seed)
    found: dict[str, Any] = {"mutants": []} | read(arguments.out)
    found |= {"seed": arguments.seed, "functions": names}
    known = {tuple(each[field] for field in Mutant._fields) for each in found["mutants"]}

    def tried(each: tuple[Mutant, str]) -> dict[str, Any]:
        mutant, text = each
        return mutant._asdict() | fate(mutant, text, called)

    with ThreadPoolExecutor(arguments.at_once) as pool:
        for result in pool.map(tried, [each for each in mutants if tuple(each[0]) not in known]):
            found["mutants"].append(result)
            print(f"{len(found['mutants'])} of {len(mutants)}: {result}", flush=True)
            by = Counter(each["found"] for each in found["mutants"])
            found |= {"found": by[True], "of": by[True] + by[False]}
            write(arguments.out, found)


def fate(mutant: Mutant, text: str, called: dict[str, Any]) -> dict[str, Any]:
    """Whether a test fails with the mutant, and in which file."""
    path, _, function = mutant.function.partition("::")
    files = [file for file, what in called.items() if f"{path}::{function}" in what["functions"]]
    files.sort(key=lambda file: called[file]["seconds"])
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "fewstep"
        for part in ("fewstep", "tests", "benchmarks", "examples", "docs"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
            shutil.copy(ROOT / name, tree / name)
        (tree / path).write_text(text)
        for file in files:
            try:
                if pytest_of(tree, [file]).returncode not in (0, 5):
                    return {"found": True, "by": file}
            except subprocess.TimeoutExpired:
                return {"found": True, "by": f"{file} does not end"}
    return {"found": False, "by": f"{len(files)} files pass"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    calling = commands.add_parser("calls")
    calling.set_defaults(do=calls)
    running = commands.add_parser("run")
    running.add_argument("--calls", type=Path, required=True)
    running.add_argument("--functions", type=Path)
    running.add_argument("--count", type=int, default=150)
    running.add_argument("--seed", type=int, default=0)
    running.set_defaults(do=run)
    for each in (calling, running):
        each.add_argument("--out", type=Path, required=True)
        each.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
