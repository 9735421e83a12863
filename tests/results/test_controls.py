"""A method beside its controls: the table, and the sentence that says who is ahead."""

import pytest

from avdiff_jax.results.controls import ClipWeight, compare, weigh_clip
from tests.results.finished import finish

# (B, N, FSL) of three draws; HM 50 in the mean, but for what is added to B and N.
DRAWS = [(50.0, 50.0, 60.0), (52.0, 52.0, 60.0), (48.0, 48.0, 60.0)]

FINE = ClipWeight(0.1, 0.1)  # of tests with many clips


def runs_of(folder, **ahead):
    """Finished runs of methods, each so many points ahead of 50 HM."""
    return [
        finish(folder / name, f"5shot,method={name}",
               numbers=[(b + gain, n + gain, fsl) for b, n, fsl in DRAWS], wall=90.0)
        for name, gain in ahead.items()
    ]


@pytest.mark.parametrize("ahead, best, sentence", [
    ((0, 6, 3), "linear", "On your clips linear is ahead of avdiff by 6.0 HM, in 3 of 3 draws; use "
                          "it with --model={folder}/linear"),
    ((0, 1, 3), "ncm", "On your clips ncm is ahead of avdiff by 3.0 HM, in 3 of 3 draws; use it "
                       "with --model={folder}/ncm"),
    ((9, 1, 3), "avdiff", "On your clips avdiff is ahead of ncm by 6.0 HM, in 3 of 3 draws; use it "
                          "with --model={folder}/avdiff"),
    ((0, 0.4, -5), "linear", "On your clips avdiff and linear are level: HM 50.0 and 50.4, nearer "
                             "than 0.5."),
    ((0, -5, 0.4), "ncm", "On your clips avdiff and ncm are level: HM 50.0 and 50.4, nearer than "
                          "0.5."),
    ((0, 0, 0), "avdiff", "On your clips all 3 rows, avdiff, linear and ncm are level: HM 50.0, "
                          "50.0 and 50.0, nearer than 0.5."),
])
def test_the_sentence(ahead, best, sentence, tmp_path):
    runs = runs_of(tmp_path, **dict(zip(("avdiff", "linear", "ncm"), ahead, strict=True)))
    made = compare(runs, FINE)
    assert made.sentence == sentence.format(folder=tmp_path)
    assert made.best.config["method"] == best


def test_draws_that_disagree_are_counted(tmp_path):
    method, control = runs_of(tmp_path, avdiff=2, linear=0)
    draws = [{**draw, "HM": 90.0} for draw in control.draws]
    control.results["test"]["draws"] = [*control.draws[:2], draws[2]]
    assert "avdiff is ahead of linear by 2.0 HM, in 2 of 3 draws" in (
        compare([method, control], FINE).sentence)
    control.results["test"]["draws"] = [control.draws[0], *draws[1:]]
    assert "avdiff and linear are level: HM 52.0 and 50.0, avdiff ahead in 1 of 3 draws." in (
        compare([method, control], FINE).sentence)


@pytest.mark.parametrize("novel, level", [(3.6, True), (3.7, True), (3.5, False)])
def test_what_one_test_clip_moves_is_level(novel, level, tmp_path):
    """A control that names one clip a draw more right, of 28, is not ahead."""
    method = finish(tmp_path / "m", "5shot,method=avdiff", numbers=[(76.0, 76.0, 80.0)] * 3)
    control = finish(tmp_path / "c", "5shot,method=linear", numbers=[(76.0, 79.6, 80.0)] * 3)
    sentence = compare([method, control], ClipWeight(0.4, novel)).sentence
    assert ("avdiff and linear are level: HM 76.0 and 77.8, no farther apart than one test clip a "
            "draw may move it (1.8)." in sentence) == level
    assert ("linear is ahead of avdiff by 1.8 HM, in 3 of 3 draws" in sentence) != level


def test_a_run_near_the_best_is_level_though_the_method_is_nearer(tmp_path):
    runs = runs_of(tmp_path, avdiff=0, linear=1.7, ncm=0.6)
    assert "all 3 rows, avdiff, linear and ncm are level: HM 50.0, 51.7 and 50.6, no farther" in (
        compare(runs, ClipWeight(3.6, 3.6)).sentence)


def test_the_weight_of_a_clip():
    """That of the class with fewest, for accuracy is a mean over classes."""
    sets = {"test_base": {"a": [*"xyzu"], "b": [*"vw"]}, "test_novel": [{"c": ["q"]}]}
    assert weigh_clip({"sets": sets}) == ClipWeight(25.0, 100.0)


def test_the_table(tmp_path):
    made = compare(runs_of(tmp_path, avdiff=0, ncm=5), FINE, ["The test: 9 clips."])
    lines = [" ".join(line.split()) for line in str(made).splitlines()]
    assert lines[0] == "ucf, 5-shot: test, percent, mean ± std of 3 draws of the shots"
    assert lines[2].split() == ["B", "N", "HM", "FSL", "AUSUC", "minutes"]
    assert lines[4] == "avdiff 50.00 ± 2.00 50.00 ± 2.00 50.00 ± 2.00 60.00 ± 0.00 25.00 ± 1.00 1.5"
    assert lines[5].startswith("ncm 55.00 ± 2.00")
    assert "The test: 9 clips." in lines and lines[-1] == made.sentence
    assert "| ncm | 55.00 ± 2.00 |" in made.markdown() and made.sentence in made.markdown()


def test_departures_are_named(tmp_path):
    method = finish(tmp_path / "m", "5shot,generator=none")
    control = finish(tmp_path / "c", "5shot,method=ncm")
    assert "avdiff,generator=none and ncm are level" in (
        compare([method, control], FINE).sentence)


def test_how_hm_is_averaged_is_said(tmp_path):
    """HM of (100, 0) and (0, 100) is 0, that of their mean 50."""
    swings = [(100.0, 0.0, 60.0), (0.0, 100.0, 60.0)]
    method = finish(tmp_path / "m", "5shot", numbers=swings)
    control = finish(tmp_path / "c", "5shot,method=ncm", numbers=[(50.0, 50.0, 60.0)] * 2)
    assert compare([method, control], FINE).table.notes == [
        "HM is that of the mean B and mean N, as in the paper; the mean of the draws' own HM is "
        "0.00 (avdiff), 50.00 (ncm)."]
    single = [finish(tmp_path / name, "5shot", numbers=swings[:1]) for name in "xy"]
    assert compare(single, FINE).table.notes == []
