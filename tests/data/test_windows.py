"""From clip indices to plans: balance, trims, buckets."""

import itertools

import numpy as np
import pytest

from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.windows import (
    Lengths,
    Limits,
    bucket_shapes,
    cut_lengths,
    evaluation_buckets,
    training_plan,
    windows,
)
from tests import tiny
from tests.data.samples import sequences


@pytest.fixture(scope="module")
def store():
    rng = np.random.default_rng(0)
    return sequences(rng.integers(1, 9, 40), rng.integers(1, 13, 40))


@pytest.fixture(scope="module")
def members():
    """Classes of very different size: 20, 12, 6 and 2 clips."""
    return Members(np.arange(40), np.repeat(np.arange(4), [20, 12, 6, 2]).astype(np.int32))


def test_classes_are_balanced(store, members):
    plan = training_plan(store, members, Lengths(8, 12), 50, 400, [1])
    counts = np.bincount(plan.label.ravel(), minlength=4)
    assert ((counts - 5000) ** 2 / 5000).sum() < 16.3  # chi-square, 3 degrees, 1 in 1000
    for label, size in enumerate([20, 12, 6, 2]):
        starts = plan.video_start[plan.label == label]
        first = store.video.offsets[:-1][members.labels == label]
        share = np.array([np.mean(starts == s) for s in first])
        assert np.abs(share - 1 / size).max() < 5 * np.sqrt(1 / size / len(starts))
    first_batch = plan.video_start[0]
    assert len(set(first_batch)) < len(first_batch)  # with replacement


def test_plans_are_a_function_of_the_seed(store, members):
    def plan(*seed):
        return training_plan(store, members, Lengths(3, 4), 8, 5, list(seed))

    tiny.same(plan(42, 1, 2, 0, 3, 0), plan(42, 1, 2, 0, 3, 0))
    base = (42, 1, 2, 0, 3, 0)
    for i in range(6):
        other = tuple(n + (i == j) for j, n in enumerate(base))
        assert tiny.differ(plan(*base).video_start, plan(*other).video_start), i


def test_windows_lie_inside_their_clips(store):
    clips = np.repeat(np.arange(40), 25)
    position = np.tile(np.linspace(0, 1, 25, endpoint=False), 40)
    lengths = Lengths(3, 5)
    plan = windows(store, clips, clips, lengths, position)
    for name, most in (("audio", 3), ("video", 5)):
        part = getattr(store, name)
        start, n = getattr(plan, f"{name}_start"), getattr(plan, f"{name}_length")
        assert (start >= part.offsets[clips]).all()
        assert (start + n <= part.offsets[clips + 1]).all()
        np.testing.assert_array_equal(n, np.minimum(part.lengths[clips], most))
    longest = np.argmax(store.video.lengths)
    reached = plan.video_start[clips == longest] - store.video.offsets[longest]
    assert set(reached) == set(range(store.video.lengths[longest] - 5 + 1))


def test_audio_is_cut_to_the_time_span_of_the_video():
    store = sequences([60], [90])  # 57.6 s of both
    clips = np.zeros(200, int)
    plan = windows(store, clips, clips, Lengths(40, 60), np.arange(200) / 200)
    assert len(set(plan.video_start)) == 31
    assert np.abs(plan.audio_start * 0.96 - plan.video_start * 0.64).max() <= 0.48 + 1e-9
    centre = windows(store, clips[:1], clips[:1], Lengths(40, 60), None)
    assert (centre.video_start[0], centre.audio_start[0]) == (15, 10)


@pytest.mark.parametrize(
    "limits, wanted",
    [
        ((0, 0), (60, 90)), ((40, 60), (40, 60)), ((99, 99), (60, 90)), ((7, 90), (7, 90)),
        ((0, 60), (40, 60)), ((40, 0), (40, 60)),
    ],
)
def test_limits(limits, wanted):
    """A limit on one modality cuts the other to the same time span."""
    assert Limits(*limits).lengths(sequences([60, 3], [5, 90]), np.arange(2)) == wanted


@pytest.mark.parametrize("batch", [1, 7, 16, 64])
@pytest.mark.parametrize("most", [1, 3])
def test_buckets_hold_every_clip_once(store, members, batch, most):
    buckets = evaluation_buckets(store, members, Limits(0, 6), batch, most)
    assert len(buckets) <= most
    seen = np.concatenate([b.rows[b.rows >= 0] for b in buckets])
    assert sorted(seen) == list(range(40))
    # No batch more than filling up those of each shape takes.
    assert sum(len(b.rows) for b in buckets) < 40 // batch + len(buckets) + 1
    for bucket in buckets:
        assert bucket.rows.shape == bucket.plan.label.shape and bucket.rows.shape[1] == batch
        np.testing.assert_array_equal(bucket.plan.weight, bucket.rows >= 0)
        used = bucket.rows[bucket.rows >= 0]
        np.testing.assert_array_equal(
            bucket.plan.label[bucket.rows >= 0], members.labels[used])
        # Nothing but the limit cuts a clip.
        n = np.minimum(store.video.lengths[members.clips[used]], 6)
        np.testing.assert_array_equal(bucket.plan.video_length[bucket.rows >= 0], n)


def test_all_parts_of_a_store_share_the_shapes_of_their_batches(store):
    limits = Limits(0, 0)
    shapes = bucket_shapes(cut_lengths(store, limits))
    assert len(shapes) == 3
    for smaller, larger in itertools.pairwise(shapes):
        assert smaller != larger and smaller.audio <= larger.audio
        assert smaller.video <= larger.video
    every = np.arange(len(store.video.lengths))
    for clips in (every, every[:9], every[store.video.lengths == store.video.lengths.min()]):
        members = Members(clips, np.zeros(len(clips), np.int32))
        found = [b.lengths for b in evaluation_buckets(store, members, limits, 4)]
        assert {*found} <= {*shapes}
    assert bucket_shapes(np.array([[3, 0], [3, 0]])) == [Lengths(3, 1)]


@pytest.mark.parametrize("seed", range(5))
def test_shapes_leave_the_least_padding(seed):
    """Against all ways to part the sorted clips into runs."""
    lengths = np.random.default_rng(seed).integers(1, 12, (9, 2))
    nested = np.maximum.accumulate(lengths[np.lexsort(lengths.T)])

    def tokens(ends):
        runs = zip((0, *ends), (*ends, 9), strict=True)
        return sum((end - begin) * nested[end - 1].sum() for begin, end in runs)

    for most in (1, 2, 3):
        best = min(tokens(ends) for ends in itertools.combinations(range(1, 9), most - 1))
        shapes = np.array(bucket_shapes(lengths, most))
        first = (nested[:, None] > shapes).any(-1).sum(-1)
        assert len(shapes) <= most and shapes[first].sum() == best


def test_a_long_clip_stands_alone():
    """One clip of 1800 tokens among a thousand of 3 to 6: its batches are small and few."""
    rng = np.random.default_rng(0)
    store = sequences([*rng.integers(3, 7, 999), 1800], [*rng.integers(3, 7, 999), 1800])
    members = Members(np.arange(1000), np.zeros(1000, np.int32))
    assert bucket_shapes(cut_lengths(store, Limits(0, 0)))[-2:] == [(6, 6), (1800, 1800)]
    buckets = evaluation_buckets(store, members, Limits(0, 0), 64)
    assert sorted(np.concatenate([b.rows[b.rows >= 0] for b in buckets])) == list(range(1000))
    long = buckets[-1]
    assert (long.rows >= 0).sum() == 1 and len(long.rows) == 1
    # Scores and weights of eight heads, for each pair of its tokens.
    assert long.rows.size * (2 * 1800) ** 2 * 64 <= 1 << 30
    for devices in (2, 4):
        for bucket in evaluation_buckets(store, members, Limits(0, 0), 64, devices=devices):
            assert bucket.rows.shape[1] % devices == 0


def test_thousands_of_lengths_are_parted_in_no_time():
    lengths = np.random.default_rng(0).lognormal(4, 1, (20_000, 2)).astype(int)
    shapes = bucket_shapes(lengths)
    assert len(shapes) == 3 and (np.array(shapes[-1]) == lengths.max(0)).all()
