"""How many bad inputs are tried, and what became of them: runs tests/fuzz, and counts.

python -m benchmarks.robustness.fuzz [--all]
The fast slice, which CI runs: a few minutes. --all: more than an hour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.records import Options, write


def main() -> None:
    parser = Options(__doc__, "robustness/fuzz.json")
    parser.add_argument("--all", action="store_true", help="the slow slice too")
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
    }
    write(arguments.out, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
