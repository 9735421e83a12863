"""From plans to batches: the two ways of filling, dispatches, prefetching."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.data import feed
from avdiff_jax.data.feed import AHEAD, Feed, Resident, fill, framed, gather, prefetch
from avdiff_jax.data.store import open_store
from avdiff_jax.data.windows import Lengths, Limits, windows
from avdiff_jax.errors import UserError
from tests import tiny
from tests.data.samples import sequences


def test_a_clip_without_a_modality_is_all_padding():
    store = sequences([0, 4], [5, 0])
    clips = np.arange(2)
    lengths = Limits(0, 0).lengths(store, clips)
    assert lengths == (4, 5)
    plan = windows(store, clips, clips, lengths, np.full(2, 0.9))
    batch = framed(fill(store, plan, lengths), plan, (0.96, 0.64))
    assert batch.audio_mask.sum(1).tolist() == [0, 4]
    assert batch.video_mask.sum(1).tolist() == [5, 0]
    assert not batch.audio[0].any() and not batch.video[1].any()
    only = np.array([1])
    assert Limits(0, 0).lengths(store, only).video == 1  # an array of no tokens has no shape


@pytest.mark.parametrize("audio", [np.uint8, np.float32])
@pytest.mark.parametrize("video", [np.float16, np.float32])
def test_gathered_equals_filled(audio, video):
    rng = np.random.default_rng(1)
    store = sequences([*rng.integers(0, 9, 20), 8], [*rng.integers(0, 13, 20), 12], audio, video)
    clips = rng.integers(0, 21, 30)
    lengths = Lengths(5, 7)
    plan = windows(store, clips, clips % 3, lengths, rng.random(30))
    resident = tiny_resident(store)
    a = gather(resident, plan, lengths, (0.96, 0.64))
    b = framed(fill(store, plan, lengths), plan, (0.96, 0.64))
    assert a.audio.dtype == audio and a.video.dtype == video
    assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(lambda x: jnp.asarray(x).dtype, b)
    tiny.same(a, b)
    for row, clip in enumerate(clips):  # and what both hold is the clip
        start = plan.video_start[row] - store.video.offsets[clip]
        n = min(7, store.video.lengths[clip])
        values = store.video.values[store.video.offsets[clip] :][start : start + n]
        np.testing.assert_array_equal(a.video[row, :n], values)
        assert not a.video[row, n:].any() and a.video_mask[row].sum() == n
    np.testing.assert_allclose(a.audio_time[0], 0.96 * np.arange(5), rtol=1e-6)


def tiny_resident(store):
    return Resident(jnp.asarray(store.audio.values), jnp.asarray(store.video.values))


@pytest.mark.parametrize(
    "wanted, total, steps", [(50, 300, 50), (7, 300, 6), (500, 30, 30), (4, 7, 1), (1, 9, 1)]
)
def test_steps_of_a_dispatch(wanted, total, steps):
    feed = Feed(open_store(tiny.world()[0]), tiny.mesh(), "device")
    assert feed.steps(Lengths(5, 5), 8, wanted, total) == steps


def test_streamed_dispatches_fit_their_memory(monkeypatch):
    feed = Feed(open_store(tiny.world()[0]), tiny.mesh(), "host")
    row = 5 * 8 + 5 * 12 * 4  # uint8 audio, float32 video
    monkeypatch.setattr("avdiff_jax.data.feed.STREAM_BYTES", 3 * 8 * row)
    assert feed.streamed and feed.steps(Lengths(5, 5), 8, 50, 300) == 3
    with pytest.raises(UserError, match="residence"):
        Feed(open_store(tiny.world()[0]), tiny.mesh(), "cloud")


def test_prefetched_runs_no_further_ahead_than_it_says():
    """What waits is memory; and nothing is made for a consumer that has left."""
    begun = []
    stream = prefetch(lambda x: begun.append(x) or x, range(20))
    for taken in range(5):
        assert next(stream) == taken
        assert len(begun) <= taken + 1 + AHEAD
    stream.close()
    assert len(begun) <= 5 + AHEAD


@pytest.mark.parametrize("threads", [1, 5])
def test_filling_does_not_depend_on_the_number_of_readers(threads, monkeypatch):
    rng = np.random.default_rng(0)
    store = sequences(rng.integers(1, 9, 40), rng.integers(1, 9, 40))
    clips, lengths = rng.integers(0, 40, (6, 50)), Lengths(5, 6)
    plan = windows(store, clips, clips, lengths, rng.random(clips.shape))
    with ThreadPoolExecutor(threads) as pool:
        monkeypatch.setattr(feed, "readers", lambda: pool)
        found = fill(store, plan, lengths)
    for part, sequence in (("audio", store.audio), ("video", store.video)):
        values, most = getattr(found, part), getattr(lengths, part)
        assert values.shape[:3] == (6, 50, most) and values.dtype == sequence.values.dtype
        starts, counts = getattr(plan, f"{part}_start"), getattr(plan, f"{part}_length")
        for row, start, count in zip(
            values.reshape(300, most, -1), starts.ravel(), counts.ravel(), strict=True
        ):
            np.testing.assert_array_equal(row[:count], sequence.values[start : start + count])
            assert not row[count:].any()


def test_prefetched_keeps_order_and_passes_errors_on():
    assert list(prefetch(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
    assert list(prefetch(lambda x: x, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda x: 1 / x, [1, 0]))


def test_values_travel_in_parts(monkeypatch):
    """To a GPU; the last part overlaps the one before."""
    values = np.arange(23 * 3, dtype=np.float16).reshape(23, 3)
    monkeypatch.setattr(feed.devices, "on_cpu", lambda mesh: False)
    monkeypatch.setattr(feed, "PART_BYTES", 5 * values[:1].nbytes)
    asked = []

    class Read(np.ndarray):
        def __getitem__(self, rows):
            asked.append(rows)
            return super().__getitem__(rows)

    placed = feed.place_values(values.view(Read), tiny.mesh(2))
    np.testing.assert_array_equal(placed, values)
    assert placed.dtype == values.dtype and placed.sharding.is_fully_replicated
    assert sorted(rows.start for rows in asked[1:]) == [0, 5, 10, 15, 18]
