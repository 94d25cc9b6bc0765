"""The verdict: chosen on meta-validation tasks, told by meta-test tasks, in words. Place: fewstep/compare/verdict.py."""

import numpy as np
import pytest

from fewstep.compare.results import About, Metric, Scores
from fewstep.compare.verdict import ranking, verdict
from fewstep.errors import InputError, TrainingError

COSTS = {"prior": 1.0, "ridge": 10.0, "joint": 1e6, "maml": 1e9}


def scores(seed, levels, tasks=60, seeds=3, own=0.05):
    """Methods of these mean errors, on tasks that are hard or easy for all of them."""
    random = np.random.default_rng(seed)
    hardness = 0.5 + 0.5 * random.exponential(size=tasks)
    found = []
    for name, level in levels.items():
        rows = 1 if name in ("prior", "ridge") else seeds
        errors = level * hardness + own * random.normal(size=tasks) + 0.01 * random.normal(size=(rows, tasks))
        found.append(Scores(name, np.maximum(errors, 0), COSTS[name]))
    return found


FAR = {"prior": 1.0, "ridge": 0.6, "joint": 0.5, "maml": 0.2}
NEAR = {"prior": 1.0, "ridge": 0.6, "joint": 0.2, "maml": 0.19}


def test_a_method_that_is_better_by_far_is_taken():
    test = scores(1, FAR)
    found = verdict(scores(0, FAR), test, 0.05)
    assert (found.outcome, found.method, found.runner_up, found.more_tasks) == ("method", "maml", "joint", None)
    assert found.comparison.regret == 0.0
    assert found.sentences[0] == "Take maml."
    share = 1 - test[3].errors.mean() / test[0].errors.mean()
    assert any(f"takes {100 * share:.0f} % of that error away" in sentence for sentence in found.sentences)


def test_of_methods_that_do_as_well_the_cheaper_is_taken():
    found = verdict(scores(0, NEAR, tasks=400), scores(1, NEAR, tasks=400), 0.05)
    assert (found.outcome, found.method) == ("equivalent", "joint")
    assert any(
        "maml does as well, within the margin of 0.050, and takes more operations" in sentence for sentence in found.sentences
    )


def test_where_a_method_that_does_not_adapt_does_as_well_the_verdict_says_that_there_is_no_need_of_meta_learning():
    found = verdict(scores(0, NEAR, tasks=400), scores(1, NEAR, tasks=400), 0.05)
    assert sum("these tasks show no need of meta-learning" in sentence for sentence in found.sentences) == 1
    assert not any("no need" in sentence for sentence in verdict(scores(0, FAR), scores(1, FAR), 0.05).sentences)
    without = [[method for method in scores(seed, NEAR, tasks=400) if method.name != "maml"] for seed in (0, 1)]
    assert not any("no need" in sentence for sentence in verdict(*without, 0.05).sentences)  # nothing adapted


def test_a_cheaper_method_is_not_taken_where_validation_tasks_are_too_few_to_be_sure():
    few = scores(0, NEAR, tasks=6, own=0.3)
    best = min(few, key=lambda method: method.errors.mean()).name
    assert ranking(few, 0.05)[0] == best


def test_the_choice_is_the_same_whatever_the_test_tasks_say():
    validation = scores(0, NEAR)
    turned = {"prior": 0.2, "ridge": 0.3, "joint": 0.9, "maml": 1.0}
    chosen = {verdict(validation, scores(seed, test), 0.05).method for seed, test in ((1, NEAR), (2, FAR), (3, turned))}
    assert len(chosen) == 1


def test_a_method_that_the_test_tasks_do_not_confirm_is_not_recommended_with_confidence():
    turned = {"prior": 1.0, "ridge": 0.2, "joint": 0.6, "maml": 0.6}
    found = verdict(scores(0, FAR), scores(1, turned), 0.05)
    assert (found.outcome, found.method) == ("inconclusive", "maml")
    assert any("ridge did better than the method that the validation tasks chose" in sentence for sentence in found.sentences)


def test_where_it_cannot_be_told_the_sentences_say_how_many_tasks_would_tell():
    found = verdict(scores(0, NEAR, own=0.3), scores(1, NEAR, own=0.3), 0.05)
    assert found.outcome == "inconclusive"
    assert found.more_tasks and found.more_tasks > 20
    assert found.sentences[0].startswith("These tasks cannot tell")
    assert any("more test tasks would tell" in sentence for sentence in found.sentences)


def test_with_so_many_more_tasks_it_is_told():
    more = verdict(scores(0, NEAR, own=0.3), scores(1, NEAR, own=0.3), 0.05).more_tasks
    assert more
    told = [verdict(scores(0, NEAR, own=0.3), scores(seed, NEAR, 60 + more, own=0.3), 0.05).outcome for seed in range(1, 31)]
    assert told.count("inconclusive") <= 12


def test_noise_alone_is_left_unlearned():
    noise = {"prior": 1.0, "ridge": 1.1, "joint": 1.0, "maml": 1.02}
    found = verdict(scores(0, noise, tasks=300), scores(1, noise, tasks=300), 0.05)
    assert found.method == "prior"
    assert found.outcome == "equivalent"
    assert any("No method that learns is worth its cost" in sentence for sentence in found.sentences)


def test_that_learning_does_not_help_is_only_said_where_that_is_told():
    close = {"prior": 1.0, "ridge": 1.0, "joint": 1.0, "maml": 1.0}
    validation = [method._replace(errors=method.errors - (method.name == "prior")) for method in scores(0, close, own=0.3)]
    found = verdict(validation, scores(1, close, own=0.5), 0.01)
    assert (found.outcome, found.method) == ("inconclusive", "prior")
    assert "That learning helps at all is not shown." in found.sentences
    assert not any("worth its cost" in sentence for sentence in found.sentences)


def test_a_method_that_is_better_by_less_than_the_margin_is_named():
    test = scores(1, FAR)
    twin = test[3]._replace(name="twin", errors=test[3].errors - 0.03, cost=1e10)
    late = twin._replace(errors=scores(0, FAR)[3].errors + 0.5)
    found = verdict([*scores(0, FAR), late], [*test, twin], 0.02)
    assert found.outcome == "inconclusive"
    found = verdict([*scores(0, FAR), late], [*test, twin], 0.04)
    assert (found.outcome, found.method) == ("equivalent", "maml")
    assert any(sentence.startswith("twin does as well, within the margin of 0.040") for sentence in found.sentences)


def test_a_method_is_taken_exactly_where_it_is_behind_none_by_more_than_the_margin():
    outcomes = set()
    for seed in range(20):
        found = verdict(scores(0, NEAR), scores(seed + 1, NEAR, own=0.12), 0.05)
        assert (found.outcome == "inconclusive") == (found.comparison.regret > 0.05)
        assert found.sentences[0].startswith("These tasks cannot tell") == (found.outcome == "inconclusive")
        outcomes.add(found.outcome)
    assert len(outcomes) > 1


def test_of_few_tasks_it_is_said_what_cannot_be_concluded():
    few = verdict(scores(0, FAR, tasks=8), scores(1, FAR, tasks=8), 0.05).sentences
    many = verdict(scores(0, FAR), scores(1, FAR), 0.05).sentences
    assert any(sentence.startswith("Only 8 test tasks") for sentence in few)
    assert not any(sentence.startswith("Only") for sentence in many)


def test_of_few_tasks_no_methods_are_called_equivalent_however_alike_they_are_there():
    few = verdict(scores(0, NEAR, tasks=15, own=0.001), scores(1, NEAR, tasks=15, own=0.001), 0.05)
    assert few.comparison.regret < 0.05 and few.comparison.differences["maml"].outcome == "inconclusive"
    assert few.outcome == "inconclusive" and few.more_tasks >= 20
    assert any("so few do not show the kinds of task that are rare" in sentence for sentence in few.sentences)
    many = verdict(scores(0, NEAR, own=0.001), scores(1, NEAR, own=0.001), 0.05)
    assert many.outcome == "equivalent"


def test_a_method_that_diverged_is_named_and_never_chosen():
    validation, test = scores(0, FAR), scores(1, FAR)
    test[3].errors[1, 5] = np.nan
    found = verdict(validation, test, 0.05)
    assert found.method == "joint"
    assert any("maml diverged on a seed" in sentence for sentence in found.sentences)
    assert any("maml was chosen on the validation tasks, but diverged" in sentence for sentence in found.sentences)
    assert not any("nan" in sentence for sentence in found.sentences)


def test_titles_and_costs_are_told_in_words():
    about = {"maml": About("MAML, exact", 75.0, 0.42)}
    found = verdict(scores(0, FAR), scores(1, FAR), 0.05, about=about, metric=Metric("squared error", "in words")).sentences
    assert found[0] == "Take MAML, exact."
    assert "squared error" in found[1]
    assert "It costs 1 min 15 s to train and 0.42 ms to adapt to a task." in found


def test_one_method_alone_gets_a_verdict():
    found = verdict(scores(0, {"prior": 1.0}), scores(1, {"prior": 1.0}), 0.05)
    assert (found.outcome, found.method, found.runner_up) == ("method", "prior", None)


def test_other_methods_on_validation_than_on_test_tasks_are_refused():
    with pytest.raises(InputError, match="same methods"):
        verdict(scores(0, FAR), scores(1, {"prior": 1.0}), 0.05)


def test_where_every_method_diverged_the_run_has_failed():
    broken = [method._replace(errors=np.full_like(method.errors, np.nan)) for method in scores(0, FAR)]
    with pytest.raises(TrainingError, match="Every method diverged"):
        verdict(broken, broken, 0.05)
