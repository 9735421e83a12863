"""Metrics against the published evaluation, numbers done by hand, brute force and identities."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avdiff_jax import metrics
from avdiff_jax.metrics import Point
from tests import ROOT

GOLDEN = ROOT / "tests" / "golden" / "evaluation.npz"
CASES = {
    "A": None,
    "B_ucf_size": None,
    "C_novel_class_without_samples": "novel",
    "D_base_class_without_samples": "base",
}


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """All arrays of the archive; indexing an open one decompresses it again each time."""
    with np.load(GOLDEN, allow_pickle=False) as archive:
        return dict(archive)


def golden_case(case: str):
    """(scores, labels, is_base) of one case, columns in ascending class id."""
    seen, unseen = golden()[f"{case}/seen_class_ids"], golden()[f"{case}/unseen_class_ids"]
    is_base = np.isin(np.sort(np.concatenate([seen, unseen])), seen)
    return golden()[f"{case}/scores"], golden()[f"{case}/targets_mapped"], is_base


def hand_case():
    """Three base clips (two classes), three novel clips (two classes); margins are 1/16ths.

    class      0     1     2     3
    kind       base  base  novel novel
    """
    scores = np.array(
        [
            [8, 2, 4, 2],  # of 0: right while gamma < 4/16
            [6, 4, 5, 1],  # of 0: right while gamma < 1/16
            [2, 4, 8, 2],  # of 1: right while gamma < -4/16
            [6, 0, 8, 2],  # of 2: right once gamma > -2/16
            [9, 1, 6, 0],  # of 2: right once gamma > 3/16
            [3, 1, 7, 5],  # of 3: never; its best novel class is 2
        ]
    )
    is_base = np.array([True, True, False, False])
    return scores / 16, np.array([0, 0, 1, 2, 2, 3]), is_base


# --- the published evaluation


@pytest.mark.parametrize("case", CASES)
def test_calibration_table_equals_the_published(case):
    """Every number that is one; where the published table has NaN, ours has a number."""
    scores, labels, is_base = golden_case(case)
    table = golden()[f"{case}/per_beta_table_beta_seen_unseen_hm_zsl"]
    ours = np.array(metrics.sweep(scores, labels, is_base))
    np.testing.assert_allclose(ours[:, 0], table[:, 0], atol=1e-7)
    assert np.isfinite(ours).all()
    known = ~np.isnan(table[:, 1:])
    np.testing.assert_allclose(ours[:, 1:][known], 100 * table[:, 1:][known], atol=1e-5)
    # NaN is where it should be: N, HM and FSL without a novel class, B and HM without a base one.
    lost = {None: 0, "novel": 3, "base": 2}[CASES[case]]
    assert (~known).all(axis=0).sum() == (~known).any(axis=0).sum() == lost


@pytest.mark.parametrize("case", ["A", "B_ucf_size"])
def test_chosen_point_equals_the_published_sweep(case):
    point = metrics.best(metrics.sweep(*golden_case(case)))
    published = [golden()[f"{case}/sweep/{k}"] for k in ("seen", "unseen", "hm", "zsl")]
    assert point.gamma == pytest.approx(float(golden()[f"{case}/sweep/beta"]), abs=1e-7)
    np.testing.assert_allclose(point[1:], 100 * np.array(published), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_accuracy_of_each_class_equals_the_published(case):
    """The published `recall` is that of the FSL evaluation: novel clips among novel classes."""
    scores, labels, is_base = golden_case(case)
    novel = np.flatnonzero(~is_base)
    clips = ~is_base[labels]
    ours = metrics.per_class_accuracy(
        novel[scores[clips][:, novel].argmax(1)], labels[clips], is_base.size
    )
    published = golden()[f"{case}/sweep/recall"][novel]
    np.testing.assert_allclose(ours[novel], 100 * published, atol=1e-5, equal_nan=True)
    assert np.isnan(published).any() == (CASES[case] == "novel")


def test_gamma_zero_is_honoured():
    """The published code takes a validated gamma of 0 for "none" and sweeps on test instead."""
    scores, labels, is_base = golden_case("A")
    swept = golden()["A/fixed_beta_0.0_falls_back_to_sweep/hm"]
    at_zero = golden()["A/base_beta0_only/hm"]
    assert metrics.evaluate(scores, labels, is_base, 0).HM == pytest.approx(100 * at_zero, abs=1e-5)
    assert abs(swept - at_zero) > 0.1


# --- by hand


def test_per_class_accuracy_by_hand():
    accuracy = metrics.per_class_accuracy(
        np.array([0, 1, 1, 3, 3]), np.array([0, 0, 1, 3, 3]), n_classes=5
    )
    np.testing.assert_array_equal(accuracy, [50, 100, np.nan, 100, np.nan])


def test_mean_class_accuracy_weighs_classes_and_skips_absent_ones():
    predicted, labels = np.array([0, 0, 0, 0, 0]), np.array([0, 0, 0, 1, 3])
    assert metrics.mean_class_accuracy(predicted, labels, 4) == pytest.approx(100 / 3)
    chosen = np.array([True, True, True, False])
    assert metrics.mean_class_accuracy(predicted, labels, 4, chosen) == 50
    with pytest.raises(ValueError, match="none of 1 classes has a clip"):
        metrics.mean_class_accuracy(predicted, labels, 4, np.arange(4) == 2)


def test_harmonic_mean_by_hand():
    assert metrics.harmonic_mean(0, 0) == 0
    assert metrics.harmonic_mean(100, 0) == 0
    assert metrics.harmonic_mean(30.0, 60.0) == pytest.approx(40)
    np.testing.assert_allclose(
        metrics.harmonic_mean(np.array([0.0, 50.0]), np.array([0.0, 50.0])), [0, 50]
    )


@pytest.mark.parametrize(
    "gamma, b, n",
    [
        (-1, 100, 0),
        (-3 / 16, 50, 0),
        (0, 50, 25),
        (2 / 16, 25, 25),
        (3.5 / 16, 25, 50),
        (1, 0, 50),
    ],
)
def test_evaluate_by_hand(gamma, b, n):
    hm = 2 * b * n / (b + n)
    assert metrics.evaluate(*hand_case(), gamma) == Point(gamma, b, n, pytest.approx(hm), 50)


def test_curve_and_area_by_hand():
    curve = metrics.curve(*hand_case())
    edges = np.array([-4, -2, 1, 3, 4]) / 16
    np.testing.assert_array_equal(curve.B, [100, 50, 50, 25, 25, 0])
    np.testing.assert_array_equal(curve.N, [0, 0, 25, 25, 50, 50])
    np.testing.assert_array_equal(curve.gamma[1:-1], (edges[1:] + edges[:-1]) / 2)
    assert curve.gamma[0] < edges[0] and curve.gamma[-1] > edges[-1]
    # Two steps: 25 % of N won at B = 50 %, 25 % at B = 25 %.
    assert metrics.ausuc(*hand_case()) == 18.75
    # HM is 100/3 on (-2, 1)/16 and on (3, 4)/16; the first is nearer no calibration.
    assert metrics.exact_gamma(*hand_case()) == -0.5 / 16
    scores, labels, is_base = hand_case()
    # The same stretches, three sixteenths lower: now the second is the nearer one.
    assert metrics.exact_gamma(scores - is_base * 3 / 16, labels, is_base) == 0.5 / 16


def test_a_shared_breakpoint_is_a_coin_toss():
    """One base and one novel clip, each right on its own side of the same margin."""
    scores = np.array([[0.75, 0.25], [0.75, 0.25]])
    case = (scores, np.array([0, 1]), np.array([True, False]))
    assert metrics.ausuc(*case) == 50
    assert metrics.ausuc(np.array([[0.75, 0.25], [0.5, 0.5]]), *case[1:]) == 100
    assert metrics.ausuc(np.array([[0.5, 0.5], [0.75, 0.25]]), *case[1:]) == 0


def test_curve_without_any_breakpoint():
    """Nobody is ever right: one stretch, no area, no calibration."""
    scores = np.array([[0.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.5, 0.0]])
    case = (scores, np.array([0, 3]), np.array([True, True, False, False]))
    assert [list(part) for part in metrics.curve(*case)] == [[0], [0], [0]]
    assert metrics.ausuc(*case) == 0
    assert metrics.exact_gamma(*case) == 0


def test_ties_go_to_the_lowest_class():
    scores = np.full((3, 3), 0.5)
    labels, is_base = np.array([0, 1, 2]), np.array([False, True, False])
    assert metrics.evaluate(scores, labels, is_base, 0)[1:] == (0, 50, 0, 50)


@pytest.mark.parametrize(
    "points, gamma",
    [
        ([(0.0, 10), (0.1, 20), (0.2, 15)], 0.1),
        ([(0.3, 20), (0.1, 20), (0.2, 20)], 0.1),
        ([(0.0, 0), (0.5, 0)], 0.0),
        ([(-0.4, 20), (0.2, 20), (0.6, 20)], 0.2),
    ],
)
def test_best_is_by_hm_then_nearest_no_calibration(points, gamma):
    points = [Point(g, 100 - hm, 100 - hm, hm, 0) for g, hm in points]
    assert metrics.best(points).gamma == gamma


def test_aggregate_by_hand():
    points = [Point(0.1, 40, 60, 48, 70), Point(0.1, 60, 40, 48, 90)]
    row = metrics.aggregate(points, [30, 36])
    assert row["mean"] == {"B": 50, "N": 50, "HM": 50, "FSL": 80, "AUSUC": 33}
    assert row["mean_of_hm"] == 48
    root = 2**0.5
    expected = {"B": 10 * root, "N": 10 * root, "HM": 0, "FSL": 10 * root, "AUSUC": 3 * root}
    assert row["std"] == pytest.approx(expected)
    assert set(metrics.aggregate(points[:1], [30])["std"].values()) == {0}


def test_clips_of_one_kind_by_hand():
    scores = np.array([[0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0.5, 0.1, 0.4]])
    is_base, nan = np.array([True, False, False]), float("nan")
    found = metrics.evaluate_kind(scores, np.array([1, 1, 2]), is_base, 0.15)
    # Lowered by 0.15, class 0 loses the first and the last clip: classes 1, 2, 2 are predicted.
    np.testing.assert_equal(found, Point(0.15, nan, 75.0, nan, 75.0))
    found = metrics.evaluate_kind(scores, np.array([1, 1, 2]), is_base, 0)
    np.testing.assert_equal(found, Point(0.0, nan, 0.0, nan, 75.0))
    row = metrics.aggregate([found, found], [nan, nan])
    assert row == {"mean": {"N": 0.0, "FSL": 75.0}, "std": {"N": 0.0, "FSL": 0.0}}
    found = metrics.evaluate_kind(scores, np.zeros(3, int), is_base, 0)
    np.testing.assert_equal(found, Point(0.0, 200 / 3, nan, nan, nan))
    with pytest.raises(ValueError, match="there are clips of base and of novel classes"):
        metrics.evaluate_kind(scores, np.array([0, 1, 2]), is_base, 0)
    with pytest.raises(ValueError, match="no clip of a base class among 0"):
        metrics.evaluate_kind(scores[:0], np.zeros(0, int), is_base, 0)


# --- against brute force


def brute_point(scores, labels, is_base, gamma):
    """B, N, HM, FSL by counting clip by clip, the way one would explain it aloud."""
    rights = {"all": {}, "novel": {}}
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        lowered = [s - gamma if base else s for s, base in zip(row, is_base, strict=True)]
        among = {"all": range(len(row)), "novel": [c for c in range(len(row)) if not is_base[c]]}
        for which, classes in among.items():
            winner = max(classes, key=lambda c: (lowered[c], -c))
            rights[which].setdefault(label, []).append(winner == label)

    def mean(which, base):
        found = [
            100 * sum(hits) / len(hits) for c, hits in rights[which].items() if is_base[c] == base
        ]
        return sum(found) / len(found)

    b, n = mean("all", True), mean("all", False)
    return b, n, 2 * b * n / (b + n) if b + n else 0.0, mean("novel", False)


@st.composite
def problems(draw):
    """Scores in 32nds: sums, differences and midpoints are exact, and ties are common."""
    n_base, n_novel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kinds = [True] * n_base + [False] * n_novel
    is_base = np.array(draw(st.permutations(kinds)))
    n_classes = n_base + n_novel
    extra = draw(st.lists(st.integers(0, n_classes - 1), max_size=8))
    labels = np.array([int(np.argmax(is_base)), int(np.argmin(is_base)), *extra])
    cells = st.integers(-8, 32)
    rows = st.lists(cells, min_size=n_classes, max_size=n_classes)
    scores = np.array(draw(st.lists(rows, min_size=labels.size, max_size=labels.size))) / 32
    return scores, labels, is_base


QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(problems(), st.integers(-40, 40))
def test_evaluate_equals_brute_force(problem, gamma):
    """Also at gamma on a breakpoint, where calibrated scores tie."""
    np.testing.assert_allclose(
        metrics.evaluate(*problem, gamma / 32)[1:], brute_point(*problem, gamma / 32), atol=1e-9
    )


@QUICK
@given(problems())
def test_curve_equals_brute_force_and_misses_nothing(problem):
    curve = metrics.curve(*problem)
    for gamma, b, n in zip(*curve, strict=True):
        np.testing.assert_allclose(brute_point(*problem, gamma)[:2], (b, n), atol=1e-9)
    # A grid between all possible margins meets every pair (B, N) of the curve and no other.
    grid = (np.arange(-45, 45) + 0.5) / 32
    met = {tuple(np.round(brute_point(*problem, gamma)[:2], 6)) for gamma in grid}
    assert met == set(zip(np.round(curve.B, 6), np.round(curve.N, 6), strict=True))


@QUICK
@given(problems())
def test_area_equals_a_fine_sweep(problem):
    points = [brute_point(*problem, (step + 0.5) / 32) for step in range(-45, 45)]
    area = sum(
        (right[1] - left[1]) * (right[0] + left[0]) / 200
        for left, right in itertools.pairwise(points)
    )
    assert metrics.ausuc(*problem) == pytest.approx(area, abs=1e-8)


@QUICK
@given(problems())
def test_exact_gamma_beats_every_other(problem):
    at = metrics.evaluate(*problem, metrics.exact_gamma(*problem)).HM
    others = [brute_point(*problem, (step + 0.5) / 32)[2] for step in range(-45, 45)]
    assert at == pytest.approx(max(others), abs=1e-8)


@QUICK
@given(problems())
def test_curve_is_monotonic_and_area_bounded(problem):
    curve = metrics.curve(*problem)
    assert (np.diff(curve.gamma) > 0).all()
    assert (np.diff(curve.B) <= 0).all() and (np.diff(curve.N) >= 0).all()
    assert curve.N[0] == curve.B[-1] == 0
    fsl = metrics.evaluate(*problem, 0).FSL
    assert curve.N[-1] == pytest.approx(fsl)
    area = metrics.ausuc(*problem)
    assert 0 <= area <= fsl * curve.B[0] / 100 + 1e-9 <= 100 + 2e-9


@QUICK
@given(problems(), st.randoms(use_true_random=False))
def test_order_of_clips_and_classes_changes_nothing(problem, random):
    """Bit for bit in the order of clips. Classes are not tied here: ties go by their order."""
    scores, labels, is_base = problem
    # Powers of two below the step of 1/32 make the scores of a clip distinct, exactly.
    scores = scores + 2.0 ** -(8 + np.arange(is_base.size))
    expected = _all_numbers(scores, labels, is_base)
    order = random.sample(range(labels.size), labels.size)
    assert _all_numbers(scores[order], labels[order], is_base) == expected
    columns = np.array(random.sample(range(is_base.size), is_base.size))
    moved = (scores[:, columns], np.argsort(columns)[labels], is_base[columns])
    np.testing.assert_allclose(_all_numbers(*moved), expected, atol=1e-9)


def _all_numbers(*problem):
    return (
        *metrics.evaluate(*problem, 0.25),
        metrics.ausuc(*problem),
        metrics.exact_gamma(*problem),
    )


@pytest.mark.parametrize("seed", range(3))
def test_clip_order_changes_no_bit_at_real_size(seed):
    """Where sums of many unequal weights round, and many clips share a breakpoint."""
    random = np.random.default_rng(seed)
    is_base = np.arange(30) % 2 == 0
    labels = np.concatenate(
        [np.arange(30), random.choice(30, 2000, p=random.dirichlet(np.ones(30)))]
    )
    scores = np.round(random.random((labels.size, 30)) + np.eye(30)[labels], 1)
    order = random.permutation(labels.size)
    curve = metrics.curve(scores, labels, is_base)
    for one, other in zip(curve, metrics.curve(scores[order], labels[order], is_base), strict=True):
        np.testing.assert_array_equal(one, other)
    assert curve.B[-1] == 0


@QUICK
@given(problems())
def test_gamma_trades_base_for_novel(problem):
    points = metrics.sweep(*problem, grid=np.linspace(-2, 2, 33))
    assert all(a.B >= b.B and a.N <= b.N for a, b in itertools.pairwise(points))


# --- what is refused


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": np.nan}, r"scores\[1, 2\] is nan"),
        ({"scores": np.inf}, r"scores\[1, 2\] is inf"),
        ({"labels": np.array([0, 0, 1, 2, 2])}, r"\(6, 4\) but 5 labels and 4 classes"),
        ({"labels": np.array([0, 0, 1, 2, 2, 4])}, "labels lie in 0..4 but there are 4 classes"),
        ({"labels": np.array([0, 0, 1, 2, 2, -1])}, r"labels lie in -1..2"),
        ({"labels": np.zeros(6)}, "labels must be .* integers, got float64"),
        ({"labels": np.array([0, 0, 1, 1, 1, 1])}, "no clip of a novel class among 6"),
        ({"labels": np.array([2, 2, 2, 2, 3, 3])}, "no clip of a base class among 6"),
        ({"is_base": np.array([1, 1, 0, 0])}, "is_base must be .* bool, got int64"),
        ({"is_base": np.array([True, True, False])}, "labels lie in 0..3 but there are 3"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message):
    scores, labels, is_base = hand_case()
    if isinstance(value := change.get("scores"), float):
        scores[1, 2] = value
    problem = (scores, change.get("labels", labels), change.get("is_base", is_base))
    for function in (metrics.sweep, metrics.curve, metrics.ausuc, metrics.exact_gamma):
        with pytest.raises(ValueError, match=message):
            function(*problem)


def test_other_refusals():
    with pytest.raises(ValueError, match="gamma must be finite, got nan"):
        metrics.evaluate(*hand_case(), float("nan"))
    with pytest.raises(ValueError, match="no points"):
        metrics.best([])
    with pytest.raises(ValueError, match="1 points and 2 areas"):
        metrics.aggregate([Point(0, 0, 0, 0, 0)], [1, 2])
    with pytest.raises(ValueError, match="0 points and 0 areas"):
        metrics.aggregate([], [])
    with pytest.raises(ValueError, match=r"shape \(2,\) but labels \(1,\)"):
        metrics.per_class_accuracy(np.array([0, 1]), np.array([0]), 2)


def test_calibration_lowers_base_classes():
    found = metrics.calibrated(np.array([[0.5, 0.25]]), np.array([True, False]), 0.3)
    np.testing.assert_allclose(found, [[0.2, 0.25]])


def test_class_table_by_hand():
    rows = metrics.class_table(np.array([[3, 1, 2], [0, 4, 0], [0, 0, 0]]))
    assert rows[0] == (6, 50.0, 2, 2) and rows[1] == (4, 100.0, -1, 0)
    assert rows[2][:1] + rows[2][2:] == (0, -1, 0) and np.isnan(rows[2].accuracy)
