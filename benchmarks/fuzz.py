"""How many bad inputs are tried, and what became of them: runs tests/fuzz, and counts.

python benchmarks/fuzz.py [--all] [--out docs/records/fuzz.json]
The fast slice, which CI runs: a few minutes. --all: more than an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections import Counter, defaultdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the slow slice too")
    parser.add_argument("--out", type=Path, default=Path("docs/records/fuzz.json"))
    arguments = parser.parse_args()
    started = os.times()
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.xml"
        words = ["-q", "-m", "slow or not slow" if arguments.all else "not slow", "-n", "auto", "--dist", "worksteal"]
        words += [f"--junitxml={told}", "-o", "junit_family=xunit1"]  # the other knows no properties of a test
        code = subprocess.run([sys.executable, "-m", "pytest", "tests/fuzz", *words]).returncode
        cases = xml.parse(told).getroot()
    if code:
        sys.exit(f"pytest ended with {code}: nothing is recorded")
    ended = os.times()
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases.iter("testcase"):
        found = [(each.get("name"), each.get("value")) for each in case.iter("property")]
        kind = next((value for name, value in found if name == "kind"), None)
        kinds[kind or ""].update(value for name, value in found if name == "outcome" and value)
    by_kind = {kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items()) if counts}
    outcomes = sum(kinds.values(), Counter())
    record = {
        "slices": "fast and slow" if arguments.all else "fast",
        "cases": outcomes.total(),
        "outcomes": dict(sorted(outcomes.items())),
        "by_kind": by_kind,
        "cpu_seconds": round(ended.children_user + ended.children_system - started.children_user - started.children_system),
        "machine": {"python": platform.python_version(), "date": time.strftime("%Y-%m-%d")},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
