"""The table of a run, for results.md and for a terminal."""

import pytest

from avdiff_jax import metrics
from avdiff_jax.cli import configuration
from avdiff_jax.io.documents import plain
from avdiff_jax.results import run_table
from tests.results.test_results_json import CONFIG, POINTS, outcome

ONE_DRAW = {
    **metrics.aggregate(POINTS[:1], [41.0]), "draws": [{**POINTS[0]._asdict(), "AUSUC": 41.0}],
}


def test_markdown():
    assert run_table.markdown(outcome()) == (
        "**ucf, 5-shot, avdiff: test, percent**\n"
        "\n"
        "|  | B | N | HM | FSL | AUSUC | gamma |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| **ours**, mean ± std of 2 draws | **75.00** ± 7.07 | **45.00** ± 7.07"
        " | **56.25** ± 3.54 | **51.00** ± 1.41 | **42.00** ± 1.41 |  |\n"
        "| paper | 74.11 | 50.35 | 59.96 | 51.45 |  |  |\n"
        "| draw 0 | 70.00 | 50.00 | 58.33 | 52.00 | 41.00 | 0.3 |\n"
        "| draw 1 | 80.00 | 40.00 | 53.33 | 50.00 | 43.00 | 0.3 |\n"
        "\n"
        "HM of ours is that of the mean B and mean N, as in the paper; the mean of the draws' own"
        " HM is 55.83.\n"
        "gamma = 0.3, chosen on Val of stage 1.\n"
    )


def test_on_a_terminal_numbers_stand_below_each_other():
    title, _, head, rule, ours, paper, *draws = run_table.plain(outcome()).splitlines()
    assert title == "ucf, 5-shot, avdiff: test, percent" and set(rule) == {"-"}
    assert ours.startswith("ours, mean ± std of 2 draws  75.00 ± 7.07  45.00 ± 7.07  56.25 ±")
    assert paper == "paper                        74.11         50.35         59.96         51.45"
    assert " ".join(draws[0].split()) == "draw 0 70.00 50.00 58.33 52.00 41.00 0.3"
    for name, number in zip(head.split(), draws[0].split()[2:], strict=True):
        assert head.index(name) + len(name) == draws[0].index(number) + len(number)
    assert "|" not in run_table.plain(outcome()) and "*" not in run_table.plain(outcome())


def test_a_single_draw_has_no_spread():
    text = run_table.markdown(outcome(test=ONE_DRAW))
    assert "| **ours**, one draw | **70.00** | **50.00** |" in text and "| 0.3 |" in text
    assert "±" not in text and "draw 0" not in text and "draws' own" not in text


def test_an_ablation_has_the_row_of_that_ablation():
    config = {**CONFIG, "model": {"attention": "cross", "modality": "both"}}
    text = run_table.markdown(outcome(config=config))
    assert "ucf, 5-shot, avdiff, attention cross" in text
    assert "| paper | 82.89 | 44.33 | 57.77 | 47.02 |" in text


@pytest.mark.parametrize("classes, shown", [(48, True), (27, False)])
def test_another_store_under_a_benchmark_configuration_is_not_set_beside_the_paper(classes, shown):
    text = run_table.markdown({**outcome(), "data": {"store": "any", "classes": classes}})
    assert ("| paper" in text) == shown


def test_own_data_have_no_row_of_the_paper():
    text = run_table.markdown(outcome(config={"dataset": "own", "shots": 3, "method": "ncm"}))
    assert "| paper" not in text and "**75.00**" in text


@pytest.mark.parametrize(
    "words, overrides, made_up, told",
    [
        ("5shot", [], False, None),
        ("5shot,published", ["--config.seed=3", "--config.train.draws=apart"], False, None),
        ("5shot", [], True, "the features are made up."),
        ("5shot", ["--config.train.epochs1=2"], False, "train.epochs1 = 2, not 30."),
        ("5shot,attention=cross", ["--config.train.batches=9"], True,
         "the features are made up; train.batches = 9, not 300."),
    ],
)
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_another_experiment_than_the_papers_is_said(words, overrides, made_up, told):
    config = plain(configuration.resolve(f"configs/ucf.py:{words}", overrides))
    data = {"store": "ucf", "classes": 48, "made_up": made_up}
    text = run_table.plain({**outcome(config=config), "data": data})
    assert "\npaper " in text
    said = [line for line in text.splitlines() if line.startswith("Not the paper's experiment")]
    assert said == ([f"Not the paper's experiment: {told}"] if told else [])
