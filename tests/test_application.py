"""Applications fulfil their protocol, are found by their entry points, and generic code knows none by name. Place:
fewstep/application.py, fewstep/testing.py, fewstep/cli/dispatch.py; tests/plugin is an application in a package of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fewstep
from fewstep import application as registry
from fewstep import runs
from fewstep.errors import InputError
from fewstep.testing import CheckFailed, check_application

ROOT = Path(fewstep.__file__).parent
PLUGIN = Path(__file__).parent / "plugin"
GENERIC = ("application.py", "core", "nn", "storage", "gradients", "variants", "training", "supervised", "runs", "plots")
GENERIC += ("compare", "cli")
QUESTIONS = {
    "an application's or a problem's name": r"[\"'](sine|tables?|images|omniglot|robots|robot-faults|policies|nav2d|rl)[\"']",
    "which settings or run it is": r"is(instance|subclass)\([^)]*(Settings|Run|Images|Omniglot|RobotFaults|Table|Sine)\b",
    "whether settings have a field": r"(hasattr|getattr)\([\w.]*settings\b",
    "whether a problem is of images": r"problem\.images|is_photos",
    "an application's own settings": r"import .*\b(PolicySettings|OwnEnvironment|ImageSettings|ImageLearning|RobotFaults)\b",
}
ALLOWED: dict[str, str] = {
    "cli/dry_run.py: getattr(arguments.settings": "reads the fields that the settings themselves list",
    "supervised/training.py: problem.images": "how many draws of a validation task, until problems validate themselves",
    "training/divergence.py: getattr(problem.settings": "settings of policies and of others, until both are of one type",
    "training/tuning.py: getattr(problem.settings": "problems of a user's own, whose settings may be anything",
    "supervised/adapted.py: getattr(self.problem.settings": "models of rows, of which tables alone know a column of time",
    "compare/page/components.py: element(": "the elements of a page",
    "compare/page/page.py: element(": "the elements of a page",
    "compare/methods/networks.py: SHARED": "the name of a field of a Problem",
    "compare/methods/networks.py: hasattr(benchmark.settings": "a variant has fields for several recipes",
}
"""place -> why it may stay"""


def installed(folder):
    """A folder for `sys.path` with the plugin as pip leaves it: its module and its metadata."""
    about = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = folder / "fewstep_bowls-0.1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(PLUGIN / "fewstep_bowls.py", folder)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    points = about["entry-points"][registry.GROUP]
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items()))
    return folder


def forget():
    for each in (registry.entry_points, registry.application, registry.unusable):
        each.cache_clear()


@pytest.fixture
def bowls(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(installed(tmp_path / "site"))
    forget()
    yield registry.application("bowls")
    forget()


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Installs an application of this source code."""

    def install(code):
        monkeypatch.syspath_prepend(installed(tmp_path / "site"))
        (tmp_path / "site" / "fewstep_bowls.py").write_text(code)
        sys.modules.pop("fewstep_bowls", None)
        forget()

    yield install
    sys.modules.pop("fewstep_bowls", None)
    forget()


def fewstep_command(*words, site=None):
    path = os.pathsep.join(filter(None, [str(site or ""), os.environ.get("PYTHONPATH", ""), str(ROOT.parent)]))
    command = [sys.executable, "-m", "fewstep.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("sine", "tables")), "policies"])
def test_an_application_passes_the_battery(name, tmp_path):
    check_application(registry.application(name), tmp_path / "battery")


@pytest.mark.slow
def test_images_pass_the_battery(tmp_path):
    check_application(registry.application("images"), tmp_path / "battery")


@pytest.mark.slow
def test_robots_pass_the_battery(tmp_path):
    pytest.importorskip("mujoco")
    check_application(registry.application("robots"), tmp_path / "battery")


def test_an_application_of_another_package_passes_the_battery(bowls, tmp_path):
    check_application(bowls, tmp_path / "battery")
    config = json.loads((tmp_path / "battery" / "run" / "config.json").read_text())
    assert (config["application"], config["package"], config["problem"]) == ("bowls", "fewstep-bowls", "bowls")


def test_the_command_knows_an_application_of_another_package(tmp_path):
    site, run = installed(tmp_path / "site"), tmp_path / "run"
    assert "bowls" in fewstep_command("train", "--help", site=site).stdout
    words = ["--meta-steps", "4", "--log-every", "2", "--hidden", "8", "--shots", "4"]
    trained = fewstep_command("train", "bowls", *words, "--out", run, "--json", site=site)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["evaluation"]["problem"] == "bowls"
    (tmp_path / "new.csv").write_text("x1,x2,y\n0.1,0.2,0.3\n-0.4,0.5,0.6\n")
    adapt = ["adapt", run, "--support", tmp_path / "new.csv", "--out", tmp_path / "adapted"]
    assert fewstep_command(*adapt, site=site).returncode == 0
    predict = ["predict", tmp_path / "adapted", "--inputs", tmp_path / "new.csv", "--out", tmp_path / "predicted.csv"]
    assert fewstep_command(*predict, site=site).returncode == 0
    for words in (["evaluate", run], [*predict[:-1], tmp_path / "again.csv"]):  # where the package is gone
        gone = fewstep_command(*words)
        assert gone.returncode == 2 and "pip install fewstep-bowls" in gone.stderr


def test_help_and_the_list_show_the_applications_that_are_installed(bowls):
    assert "bowls" in registry.problems() and registry.presets()["bowls"]["default"][0].shots == 8
    assert registry.package_of("bowls") == "fewstep-bowls" and registry.package_of("sine") == "fewstep"


@pytest.mark.parametrize("member", ["adapt", "calibrate", "problems", "evaluation"])
def test_an_application_that_lacks_a_member_is_refused_by_its_name(broken, member):
    names = [name for name in registry.MEMBERS if name != member]
    broken("from types import SimpleNamespace\nAPPLICATION = SimpleNamespace(**dict.fromkeys(" + repr(names) + "))")
    with pytest.raises(
        InputError, match=f"'bowls' of the package fewstep-bowls does not fulfil .*: it has no {member}. Add it"
    ):
        registry.application("bowls")
    assert "sine" in registry.problems()  # the others can be used


def test_an_application_that_cannot_be_imported_is_told_and_the_others_can_be_used(broken):
    broken("import no_such_module")
    assert "cannot be imported (ModuleNotFoundError: No module named 'no_such_module')" in registry.unusable()["bowls"]
    with pytest.raises(InputError, match=r"no problem 'bowls'; expected one of images.* fewstep-bowls cannot be imported"):
        registry.application_of_problem("bowls")


@pytest.mark.parametrize(
    ("member", "faulty"),
    [
        ("presets", property(lambda self: {"bowls": {}})),
        ("build", lambda self, settings, seed, saved=None, trusted="": 1),
        ("describe", lambda self, problem: [1]),
        ("example", lambda self, folder: 1 / 0),
        ("commands['adapt']", None),
    ],
)
def test_the_battery_names_the_member_at_fault(bowls, tmp_path, monkeypatch, member, faulty):
    kind = type(bowls)
    if member.startswith("commands"):
        monkeypatch.setattr(kind, "commands", {"adapt": registry.Command("fewstep_bowls:Absent", "")})
    else:
        monkeypatch.setattr(kind, member, faulty)
    with pytest.raises(CheckFailed, match=f"^{re.escape(member)}: "):
        check_application(bowls, tmp_path / "battery")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layout": 2}, "expected a run directory of layout 3, got 2. An earlier version wrote it. Train anew"),
        ({"layout": None}, "layout 3, got one without a number. An earlier version wrote it. Train anew"),
        ({"application": "poker", "package": "fewstep-poker"}, "'poker' .*pip install fewstep-poker"),
        ({"application": "poker", "package": ""}, "'poker' .*install the package that brings it"),
    ],
)
def test_a_run_that_cannot_be_opened_says_why(tmp_path, change, complaint):
    config = {"layout": 3, "application": "sine", "package": "fewstep", "problem": "sine", "preset": "default"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "settings": {}, "seed": 0, **change}))
    with pytest.raises(InputError, match=complaint):
        runs.open_run(tmp_path)


def test_an_adapted_model_of_another_layout_is_refused(tmp_path):
    (tmp_path / "adapted.json").write_text(json.dumps({"kind": "photos"}))
    with pytest.raises(InputError, match=r"expected an adapted model of layout 3, got an earlier one\. Adapt again"):
        registry.open_adapted(tmp_path)


def files_of(room):
    path = ROOT / room
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_generic_code_does_not_ask_which_application_it_serves(question):
    found = []
    for path in (path for room in GENERIC for path in files_of(room)):
        name = path.relative_to(ROOT).as_posix()
        code = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        lines = [line for line in code.splitlines() if re.search(QUESTIONS[question], line)]
        allowed = [place.partition(": ")[2] for place in ALLOWED if place.startswith(f"{name}: ")]
        found += [f"{name}: {line.strip()}" for line in lines if not any(part in line for part in allowed)]
    assert found == []


def test_nobody_imports_the_applications_before_they_are_needed():
    code = "import sys, fewstep.application, fewstep.cli.dispatch; print([m for m in sys.modules if 'fewstep.apps' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
