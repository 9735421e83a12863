import itertools

import numpy as np
import pytest

from avdiff_jax.data.store import open_store
from avdiff_jax.data.synthetic import synthesize
from avdiff_jax.errors import UserError

SMALL = {"audio_dim": 32, "video_dim": 96, "text_dim": 32}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "s.h5"
    synthesize(path, seed=0, classes=32, clips_per_class=24, **SMALL)
    return open_store(path)


def pool_tokens(part, segments):
    """[n, segments * D]: means over equal stretches of each clip."""
    rows = []
    for start, stop in itertools.pairwise(part.offsets):
        cuts = np.linspace(start, stop, segments + 1)
        rows.append(np.concatenate([
            np.asarray(part.values[int(a):max(int(b), int(a) + 1)], np.float64).mean(0)
            for a, b in itertools.pairwise(cuts)]))
    return np.stack(rows)


def nearest_mean_accuracy(features, labels, merge=lambda label: label):
    """Percent of held-out clips nearest to the mean of their own (merged) class."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    learn = np.arange(len(labels)) % 24 < 12  # whole source videos: four clips each
    classes = np.unique(labels)
    means = np.stack([features[learn & (labels == c)].mean(0) for c in classes])
    distances = ((features[~learn][:, None] - means) ** 2).sum(-1)
    return 100 * np.mean(merge(classes[distances.argmin(1)]) == merge(labels[~learn]))


def test_information_is_split_and_learnable(store):
    parts = {segments: [pool_tokens(store.audio, segments), pool_tokens(store.video, segments)]
             for segments in (1, 4)}
    both = {segments: nearest_mean_accuracy(np.concatenate(pair, 1), store.labels)
            for segments, pair in parts.items()}
    alone = [nearest_mean_accuracy(features, store.labels) for features in parts[4]]
    chance = 100 / 32
    assert 5 * chance < min(alone) and max(alone) < both[4] - 15
    assert both[4] < 95
    # order in time is worth a lot: without it, two classes look almost alike
    assert both[1] < both[4] - 10
    pair = nearest_mean_accuracy(
        np.concatenate(parts[1], 1), store.labels, merge=lambda label: label // 2)
    assert pair > both[1] + 15


def test_text_tells_what_classes_share(store):
    """Similar texts go with similar features, so text is worth something for a new class."""
    np.testing.assert_allclose(np.linalg.norm(store.class_text, axis=1), 1, rtol=1e-5)
    text = store.class_text @ store.class_text.T
    features = np.concatenate([pool_tokens(store.audio, 2), pool_tokens(store.video, 2)], 1)
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    means = np.stack([features[store.labels == c].mean(0) for c in range(32)])
    distance = ((means[:, None] - means) ** 2).sum(-1)
    above = np.triu_indices(32, 1)
    assert np.corrcoef(text[above], distance[above])[0, 1] < -0.5
    assert text[above].max() < 0.95  # yet no two classes have the same


def test_shapes_types_and_groups(store):
    assert store.audio.values.dtype == np.uint8 and store.audio.dim == 32
    assert store.video.values.dtype == np.float32 and store.video.dim == 96
    assert store.video.values.min() == 0 and 0.2 < np.mean(store.video.values == 0) < 0.8
    assert np.mean((store.audio.values == 0) | (store.audio.values == 255)) < 0.2
    assert (store.audio.seconds, store.video.seconds) == (0.96, 0.64)
    # 4 to 10 seconds
    assert set(store.audio.lengths) == set(range(4, 11))
    assert set(store.video.lengths) == set(range(6, 16))
    assert len(np.unique(store.groups)) == 32 * 24 / 4
    for group in np.unique(store.groups)[:8]:
        assert len(np.unique(store.labels[store.groups == group])) == 1


def test_clips_of_one_video_are_alike(store):
    features = pool_tokens(store.video, 1)
    features -= np.stack([features[store.labels == c].mean(0) for c in range(32)])[store.labels]
    distance = ((features[:, None] - features) ** 2).sum(-1)
    same_class = store.labels[:, None] == store.labels
    same_video = store.groups[:, None] == store.groups
    other = ~np.eye(len(features), dtype=bool)
    assert distance[same_video & other].mean() < 0.8 * distance[same_class & ~same_video].mean()


def test_deterministic_from_the_seed(tmp_path):
    options = {"classes": 5, "clips_per_class": 3, **SMALL}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthesize(tmp_path / name, seed=seed, name="same", **options)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b and a != c


def test_a_clip_does_not_depend_on_how_many_there_are(tmp_path):
    for name, count in (("few", 2), ("many", 7)):
        synthesize(tmp_path / name, seed=3, classes=4, clips_per_class=count, **SMALL)
    few, many = open_store(tmp_path / "few"), open_store(tmp_path / "many")
    first = few.video.values[:few.video.offsets[2]]
    np.testing.assert_array_equal(first, many.video.values[:len(first)])


def test_benchmark_dimensions_by_default(tmp_path):
    report = synthesize(tmp_path / "s.h5", seed=0, classes=4, clips_per_class=1)
    assert (report.audio["dim"], report.video["dim"], report.text_dim) == (128, 4096, 300)


@pytest.mark.parametrize("options, sentence", [
    ({"classes": 3}, "--classes is 3 .* at least 4"),
    ({"clips_per_class": 0}, "--clips-per-class is 0"),
    ({"audio_dim": 2}, "--audio-dim is 2"),
    ({"text_dim": 13}, "--text-dim is 13 .* at least 14"),
    ({"seed": -1}, "--seed is -1"),
    ({"seconds": (5.0, 4.0)}, "5.0 to 4.0 seconds"),
    ({"seconds": (0.0, 4.0)}, "0.0 to 4.0 seconds"),
])
def test_impossible_sizes(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        synthesize(tmp_path / "s.h5", **({"seed": 0} | SMALL | options))
    assert list(tmp_path.iterdir()) == []


def test_small_seconds_still_make_a_token(tmp_path):
    report = synthesize(tmp_path / "s.h5", seed=0, classes=4, clips_per_class=2,
                        seconds=(0.1, 0.2), **SMALL)
    assert report.audio["max"] == report.video["max"] == 1
