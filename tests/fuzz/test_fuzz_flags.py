"""Every option of every command with wrong values. Place: fewstep/cli, and what each option reaches."""

import shutil

import pytest
from odd_images import sound
from odd_tables import OPTIONS
from odd_words import VALUES, options_of

TRAIN = {
    "train sine": ["train", "sine", "--hidden", "4", "--out", "out"],
    "train table": ["train", "table", "--data", "sound.csv", *OPTIONS, "--shots", "3", "--hidden", "4", "--out", "out"],
    "train images": ["train", "images", "--data", "photos", "--ways", "2", "--queries", "1", "--size", "8", "--out", "out"],
    "train omniglot": ["train", "omniglot", "--out", "out"],
    "train robot-faults": ["train", "robot-faults", "--out", "out"],
    "train nav2d": ["train", "nav2d", "--out", "out"],
    "train cheetah-vel": ["train", "cheetah-vel", "--out", "out"],
    "train rl": ["train", "rl", "--out", "out"],
    "compare sine": ["compare", "sine", "--hidden", "4", "--out", "out"],
    "compare table": ["compare", "table", "--data", "sound.csv", *OPTIONS, "--shots", "3", "--out", "out"],
}
LATER = {
    "resume": ["resume", "run"],
    "evaluate": ["evaluate", "run"],
    "adapt": ["adapt", "run", "--support", "sound.csv", "--out", "out"],
    "predict": ["predict", "adapted", "--inputs", "sound.csv", "--out", "out.csv"],
    "update": ["update", "adapted", "--support", "sound.csv", "--out", "out"],
    "play": ["play", "run", "--out", "out.gif"],
    "gather": ["gather", "run", "--out", "out.npz"],
    "plot": ["plot", "run"],
    "results": ["results", "run"],
    "list": ["list"],
    "sample-table": ["sample-table", "--out", "out.csv", "--units", "10"],
}
COMMANDS = TRAIN | LATER
SWITCHES = ("--preset", "--variant", "--resume")
"""read before the parser is asked, which therefore does not list them"""
CASES = [
    (command, option)
    for command, words in COMMANDS.items()
    for option in (*options_of(words[: 2 if command in TRAIN else 1]), *(SWITCHES if command in TRAIN else ()))
]
POSITIONAL = [(command, place) for command, words in COMMANDS.items() for place in range(len(words[:2]))]


def given(words, option, value):
    """The words with the option set, in place of what it was set to."""
    if option not in words:
        return [*words, option, value]
    place = words.index(option)
    after = next((i for i in range(place + 1, len(words)) if words[i].startswith("--")), len(words))
    return [*words[:place], option, value, *words[after:]]


def tried(fuzz, shelf, record_property, command, wordings):
    """Runs a command in several wordings; one test, since each alone would take longer to set up than to run."""
    outcomes, failed = [], {}
    for name, words in wordings.items():
        shutil.copytree(shelf / "run", fuzz.work / "run")
        shutil.copytree(shelf / "adapted", fuzz.work / "adapted")
        shutil.copy(shelf / "sound.csv", fuzz.work)
        try:
            asked = [word.partition("=")[2] or word for word in words[1:] if not word.startswith("--")]
            outcomes.append(fuzz.check(words, ["out", "out.csv", "out.gif", "run", "adapted", "runs", "comparisons", *asked]))
        except BaseException as error:
            failed[name] = f"{type(error).__name__}: {str(error)[:400]}"
        for path in fuzz.work.iterdir():
            if path.name != "photos":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    record_property("kind", f"options: {command.split()[0]}")
    for outcome in outcomes:
        record_property("outcome", outcome)
    assert not failed, "\n".join(f"{name}: {told}" for name, told in failed.items())


@pytest.fixture
def place(fuzz, monkeypatch):
    """A folder to run in, where comparisons, measurements and estimates too are only begun."""
    from fuzzing import Begun

    from fewstep.application import problem_of

    def begin(*words, **options):
        raise Begun

    def begin_comparison(settings, seed, *rest, **options):
        problem_of(settings)[0].build(settings, seed)
        raise Begun

    for target in (
        "compare.splits.make_benchmarks",
        "apps.images.compare.make_benchmarks",
        "apps.policies.compare.make_benchmarks",
    ):
        monkeypatch.setattr(f"fewstep.{target}", begin_comparison)
    monkeypatch.setattr("fewstep.supervised.report.measure", begin)
    monkeypatch.setattr("fewstep.training.cost.estimate", begin)
    return fuzz


def some(number, values):
    """Two of the values, others for each number."""
    names = list(values)
    return {name: values[name] for name in (names[(5 * number + 7 * more) % len(names)] for more in range(2))}


FAST = ("train sine", *LATER)
"""commands whose options are tried with a few values in the fast slice"""
SLICES = [pytest.param(*case, "some", number) for number, case in enumerate(CASES) if case[0] in FAST]
SLICES += [pytest.param(*case, "all", number, marks=pytest.mark.slow) for number, case in enumerate(CASES)]


@pytest.mark.parametrize(("command", "option", "slice", "number"), SLICES)
def test_an_option_takes_what_it_can_use_and_refuses_the_rest(place, shelf, record_property, command, option, slice, number):
    words = COMMANDS[command]
    if "photos" in words:
        sound(place.work / "photos")
    values = VALUES if slice == "all" else some(number, VALUES)
    wordings = {f"{option} {name}": given(words, option, value) for name, value in values.items()}
    if slice == "all":
        wordings |= {
            f"{option} without a value": [*words, option],
            f"{option}=x": [*words, f"{option}=x"],
            f"{option} twice": [*words, option, "1", option, "2"],
            f"{option} three values": [*given(words, option, "1"), "2", "x"],
            f"{option} misspelled": [*words, option[:-1] + "q", "1"],
        }
    tried(place, shelf, record_property, command, wordings)


@pytest.mark.parametrize(("command", "number"), POSITIONAL)
def test_a_word_that_is_no_command_problem_or_folder_is_refused(place, shelf, record_property, command, number):
    words = COMMANDS[command]
    wordings = {name: [*words[:number], value, *words[number + 1 :]] for name, value in VALUES.items()}
    tried(place, shelf, record_property, command, wordings)
