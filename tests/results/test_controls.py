"""A method beside its controls: the table, and the sentence that says who is ahead."""

import pytest

from avdiff_jax.results.controls import compare
from tests.results.finished import finish

# (B, N, FSL) of three draws; HM 50 in the mean, but for what is added to B and N.
DRAWS = [(50.0, 50.0, 60.0), (52.0, 52.0, 60.0), (48.0, 48.0, 60.0)]


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
    ((0, 0.4, -5), "linear", "On your clips avdiff and linear are level: HM 50.0 and 50.4."),
    ((0, 0, 0), "avdiff", "On your clips avdiff and linear are level: HM 50.0 and 50.0."),
])
def test_the_sentence(ahead, best, sentence, tmp_path):
    made = compare(runs_of(tmp_path, **dict(zip(("avdiff", "linear", "ncm"), ahead, strict=True))))
    assert made.sentence == sentence.format(folder=tmp_path)
    assert made.best.config["method"] == best


def test_draws_that_disagree_are_counted(tmp_path):
    method, control = runs_of(tmp_path, avdiff=2, linear=0)
    draws = [{**draw, "HM": 90.0} for draw in control.draws]
    control.results["test"]["draws"] = [*control.draws[:2], draws[2]]
    assert "avdiff is ahead of linear by 2.0 HM, in 2 of 3 draws" in (
        compare([method, control]).sentence)
    control.results["test"]["draws"] = [control.draws[0], *draws[1:]]
    assert "avdiff and linear are level: HM 52.0 and 50.0." in compare([method, control]).sentence


def test_the_table(tmp_path):
    made = compare(runs_of(tmp_path, avdiff=0, ncm=5), notes=["The test: 9 clips."])
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
    assert "avdiff,generator=none and ncm are level" in compare([method, control]).sentence
