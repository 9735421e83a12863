"""A against B."""

from pathlib import Path

import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.results import paired
from tests.results.finished import call, finish, rows

# ml_collections loads configuration files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_paired_by_hand():
    """d = 1, 2, 3, 6: mean 3, s^2 = 14/3, t(3, 0.975) = 3.182446."""
    d = paired.paired([11, 22, 33, 46], [10, 20, 30, 40])
    half = 3.182446 * np.sqrt(14 / 3) / 2
    assert (d.a, d.b, d.mean, d.ahead, d.n) == (28, 25, 3, 4, 4)
    assert d.interval == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert paired.paired([1, 5, 2], [3, 1, 2]).ahead == 1
    assert paired.paired([1], [2]).interval is None


def compared(tmp_path):
    """Two rows over two seeds, with differences in B of 1, 3, 2, 6 and in N of -1 each."""
    a, b = tmp_path / "ucf-5shot" / "avdiff", tmp_path / "ucf-5shot" / "avdiff-generator=none"
    for seed, gains in ((42, (1, 3)), (43, (2, 6))):
        finish(a / f"seed{seed}", seed=seed, numbers=[(50 + g, 39, 40) for g in gains])
        finish(b / f"seed{seed}", "5shot,generator=none", seed, [(50, 40, 40)] * 2)
    return a, b


def test_compare_pairs_seeds_and_draws(tmp_path, capsys):
    a, b = compared(tmp_path)
    by_folder = call(capsys, "compare", a, b)
    by_name = call(capsys, "compare", "avdiff", "avdiff,generator=none", f"--root={tmp_path}")
    for code, text, _ in (by_folder, by_name):
        assert code == 0 and "|" not in text
        half = 3.182446 * np.std([1, 3, 2, 6], ddof=1) / 2
        interval = f"{3 - half:+.2f} to {3 + half:+.2f}"
        # t = 3 / (sqrt(14 / 3) / 2) = 2.777 with 3 degrees of freedom
        assert f"B 53.00 50.00 +3.00 {interval} 4 of 4 96.5 %" in rows(text)
        assert "N 39.00 40.00 -1.00 -1.00 to -1.00 0 of 4 0.0 %" in rows(text)
        assert any(row.startswith("AUSUC") for row in rows(text))
        assert "paired t-interval" in text and "share a base model" in text
        assert "n = 4 pairs: seeds 42, 43 x 2 draws" in text
        assert "The two differ in: generator." in text


def test_a_run_without_a_partner_is_named(tmp_path, capsys):
    a, b = compared(tmp_path)
    (b / "seed43" / "results.json").unlink()
    code, text, _ = call(capsys, "compare", a, b)
    assert code == 0 and "n = 2 pairs: seeds 42 x 2 draws" in text
    assert f"{a / 'seed43'} has no partner and is left out." in text


def scores(workdir, clips):
    arrays = {"clips": np.array(clips), "labels": np.arange(len(clips))}
    np.savez(Path(workdir) / "scores-draw0.npz", **arrays)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (dict(overrides=["--config.data.split=other.json"]), r"data\.split= and .* other\.json"),
        (dict(overrides=["--config.data.shuffle_labels=true"]), r"data\.shuffle_labels"),
        (dict(numbers=[(1.0, 2.0, 3.0)]), "3 draws and .* has 1"),
        (dict(seed=43), "nothing to pair: A has ucf 5-shot seed 42 and B has ucf 5-shot seed 43"),
        (dict(words="1shot,method=ncm"), "B has ucf 1-shot seed 42"),
        (dict(clips=["x", "z"]), r"scores-draw0\.npz hold other clips"),
        (dict(split="{}"), r"split\.json hold other clips"),
    ],
)
def test_runs_on_other_data_are_refused(tmp_path, change, complaint):
    change = dict(change)
    clips, split = change.pop("clips", ["x", "y"]), change.pop("split", "[]")
    a = finish(tmp_path / "a")
    b = finish(tmp_path / "b", **{"words": "5shot,method=ncm", **change})
    for run, names, text in ((a, ["x", "y"], "[]"), (b, clips, split)):
        scores(run.workdir, names)
        (run.workdir / "split.json").write_text(text)
    with pytest.raises(UserError, match=complaint):
        paired.report([a], [b], ("a", "b"))


def test_the_same_clips_are_accepted(tmp_path):
    a, b = finish(tmp_path / "a"), finish(tmp_path / "b", "5shot,method=ncm")
    for run in (a, b):
        scores(run.workdir, ["x", "y"])
    assert "n = 3 pairs" in paired.report([a], [b], ("a", "b"))


def test_two_runs_of_the_same_seed_on_one_side_are_refused(tmp_path):
    two = [finish(tmp_path / "a"), finish(tmp_path / "b", "5shot,method=ncm")]
    with pytest.raises(UserError, match="are both ucf 5-shot seed 42"):
        paired.pairs(two, two)


def test_over_splits_draws_and_seeds_are_averaged_first(tmp_path):
    """Gains of 1, 2 and 6 in three splits; within a split the draws differ by 10."""
    sides = {"5shot,method=avdiff": 0.0, "5shot,method=ncm": 1.0}
    a, b = (
        [
            finish(
                tmp_path / words / f"{split}-{seed}", words, seed,
                [(50.0 + gain - used * gain, 40, 40), (60.0 + gain - used * gain, 40, 40)],
                split=split,
            )
            for split, gain in enumerate((1.0, 2.0, 6.0))
            for seed in (42, 43)
        ]
        for words, used in sides.items()
    )
    text = paired.report(a, b, ("A", "B"))
    half = 4.302653 * np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    start = f"B 58.00 55.00 +3.00 {3 - half:+.2f} to {3 + half:+.2f} 3 of 3 "
    assert any(row.startswith(start) for row in rows(text))
    assert "n = 3 pairs: class splits, each the mean of seeds 42, 43 x 2 draws" in text


def test_runs_are_paired_by_their_split(tmp_path):
    a = finish(tmp_path / "a", split=0)
    b = finish(tmp_path / "b", "5shot,method=ncm", split=1)
    with pytest.raises(UserError, match=r"A has ucf 5-shot split 0 seed 42 and B has .* split 1"):
        paired.pairs([a], [b])


def test_a_single_pair_has_no_interval_and_no_chance(tmp_path):
    one = dict(numbers=[(60.0, 40.0, 45.0)])
    a, b = finish(tmp_path / "a", **one), finish(tmp_path / "b", "5shot,method=ncm", **one)
    assert "B 60.00 60.00 +0.00 – 0 of 1 –" in rows(paired.report([a], [b], ("a", "b")))
