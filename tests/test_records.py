"""Each record of docs/records names the command that writes it, and that command can be run. Place: benchmarks, docs."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of this distribution", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import records  # noqa: E402
from fewstep.cli import main  # noqa: E402

RECORDS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / records.RECORDS).rglob("*.json"))
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("benchmarks/**/*.py")]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.glob("benchmarks/**/*.py")
    if "def main() -> " in path.read_text()
)


NOT_RECORDED = ("mutants.json", "unchanged.json", "images_on_host_gpu.json", "NAME.json", "PART.json")
"""records that the description of a benchmark names, and that no figure needs so far"""


class ParsedArgumentsError(Exception):
    """Ends a benchmark as soon as its options are read."""


def arguments_of(module, words, monkeypatch):
    """What a benchmark reads from the words of its command. Nothing is measured."""
    parse = records.Options.parse_args

    def only_parse(self, *given):
        raise ParsedArgumentsError(parse(self, *given))

    monkeypatch.setattr(records.Options, "parse_args", only_parse)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(ParsedArgumentsError) as parsed:
        importlib.import_module(module).main()
    return parsed.value.args[0]


@pytest.mark.parametrize("record", RECORDS)
def test_the_commands_of_a_record_exist_and_write_it(record, monkeypatch, capsys):
    commands = json.loads((ROOT / record).read_text())["command"]
    for command in [commands] if isinstance(commands, str) else commands:
        program, *words = shlex.split(command)
        if program == "fewstep":
            with pytest.raises(SystemExit):
                main([*words[:2], "--help"])
            shown = capsys.readouterr().out
            assert all(word in shown for word in words if word.startswith("--")), command
        else:
            assert (program, words[0]) == ("python", "-m") and words[1] in MODULES
            assert arguments_of(words[1], words[2:], monkeypatch).out == Path(record)
            monkeypatch.undo()


@pytest.mark.parametrize("module", MODULES)
def test_every_benchmark_describes_its_options_without_the_libraries_of_peers(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main()
    assert not ended.value.code and "usage:" in capsys.readouterr().out


def test_every_record_and_every_benchmark_that_is_named_exists():
    missing = []
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"records/[\w/.-]+\.json", text):
            if f"docs/{name}" not in RECORDS and not name.endswith(NOT_RECORDED):
                missing.append((page.name, name))
        for name in re.findall(r"python -m (benchmarks(?:\.[a-z]\w*)+)", text):
            missing += [(page.name, name)] * (name not in MODULES)
        for name in re.findall(r"benchmarks/[\w/]+\.py", text):
            missing += [(page.name, name)] * (not (ROOT / name).is_file())
    assert not missing
