"""New classes for a finished model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.data import synthetic
from avdiff_jax.data.clip_source import of_arrays, of_store
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.inference import model as models
from avdiff_jax.train import add_classes as adding
from avdiff_jax.train.context import initialise_variables
from avdiff_jax.train.measure import build_models
from avdiff_jax.train.records import Phase, Stage1Record, SubstageChoice, SubstageRecord
from avdiff_jax.train.stage import prepare_substage
from avdiff_jax.train.substage import Outcome
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.fixture(scope="module")
def new_clips(tmp_path_factory):
    """Clips of three classes of another made-up world: (audio, video, names) to learn from, the
    same held out, and the text vectors."""
    path = tmp_path_factory.mktemp("new") / "new.h5"
    synthetic.synthesize(
        path, seed=5, classes=8, clips_per_class=12, audio_dim=8, video_dim=12, text_dim=14,
        seconds=(1.0, 6.0),
    )
    store = open_store(path)
    text = {f"new {n}": v for n, v in zip(store.class_names, store.class_text, strict=True)}

    def part(first, last):
        # Three that differ in sound or in sight.
        rows = [i for n in (0, 3, 6) for i in np.flatnonzero(store.labels == n)[first:last]]
        clips = list(of_store(store, rows))
        names = [f"new {store.class_names[store.labels[i]]}" for i in rows]
        return [c.audio for c in clips], [c.video for c in clips], names

    return part(0, 4), part(4, 12), text


def tokens(name, count, seed):
    """Fused tokens of a class as a good trunk would make them: near a point of its own."""
    rng = np.random.default_rng([seed, *name.encode()])
    center = np.random.default_rng(list(name.encode())).standard_normal(16)
    return (2 * center + 0.5 * rng.standard_normal((count, 16))).astype(np.float32)


@pytest.fixture(scope="module")
def model(finished):
    """With a trunk that tells classes split_draws, and long enough in substage 2 to learn them."""
    model = models.load(finished[0])
    old = model.examples
    features = np.concatenate([
        tokens(model.info.classes[label], 1, i) for i, label in enumerate(old.labels)
    ])
    made = dataclasses.replace(
        model, examples=old._replace(features=features), epochs=40, cuts=(30,)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.Trained, "features", lambda self, clips: np.concatenate([
            tokens(clip.clip_id.partition("/")[0], 1, 1000 + i) for i, clip in enumerate(clips)
        ]))
        known = adding.train_on_examples(made, jax.random.key(0), 0)
        yield dataclasses.replace(made, vars=known)


@pytest.fixture(scope="module")
def bigger(model, new_clips):
    return adding.add_classes(model, *new_clips[0], new_clips[2])


def right(model, names):
    """Share of held-out tokens of the named classes that are known among all classes."""
    found = [
        np.mean(np.argmax(model.method.scores(
            model.info, model.vars, jnp.asarray(tokens(name, 20, 2000))
        ), 1) == model.info.classes.index(name)) for name in names
    ]
    return np.mean(found)


def test_it_knows_old_and_new(model, bigger, new_clips):
    info, old = bigger.info, model.info
    new = tuple(sorted({*new_clips[0][2]}))
    assert info.classes == old.classes + new
    assert bigger.kinds == model.kinds + ("added",) * 3 and not info.is_base[-3:].any()
    np.testing.assert_array_equal(info.text, [*old.text, *(new_clips[2][n] for n in new)])
    assert len(bigger.examples.labels) == len(model.examples.labels) + 12
    assert right(bigger, new) > 0.8
    assert right(model, old.classes) > 0.6
    assert right(bigger, old.classes) > right(model, old.classes) - 0.05


def test_the_trunk_stands_still_and_the_given_model_too(model, bigger):
    before = jax.device_get(model.vars)
    for group in ("enc", "pos", "fusion"):
        tiny.same(bigger.vars.params[group], before.params[group])
    tiny.same(bigger.vars.stats["enc"], before.stats["enc"])
    for group in ("proj", "gen"):
        assert tiny.differ(bigger.vars.params[group], before.params[group])
    n = len(model.examples.labels)
    tiny.same(bigger.examples.features[:n], model.examples.features)


def test_the_same_again_and_saved(model, bigger, new_clips, tmp_path):
    again = adding.add_classes(model, *new_clips[0], new_clips[2])
    tiny.same(again.vars, bigger.vars)
    other = adding.add_classes(model, *new_clips[0], new_clips[2], seed=1)
    assert tiny.differ(other.vars.params["cls"], bigger.vars.params["cls"])
    bigger.save(tmp_path / "bigger.npz")
    loaded = models.load(tmp_path / "bigger.npz")
    tiny.same(loaded.vars, bigger.vars)
    assert loaded.kinds == bigger.kinds and loaded.info.classes == bigger.info.classes


@pytest.mark.slow
def test_in_two_steps(model, bigger, new_clips):
    audio, video, names = new_clips[0]
    two = model
    for part in (slice(0, 4), slice(4, 12)):
        two = adding.add_classes(two, audio[part], video[part], names[part], new_clips[2])
    assert {*two.info.classes} == {*bigger.info.classes}
    assert right(two, bigger.info.classes) > right(bigger, bigger.info.classes) - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian", "prototype"])
def test_what_a_generator_is_told(name, new_clips):
    """Rows of new classes in its buffers come from their clips, those of old ones stay."""
    words = {"gaussian": "generator=gaussian", "prototype": "condition=prototype"}[name]
    key = {"gaussian": "gaussian_mean", "prototype": "condition"}[name]
    b = tiny.make_context(tiny.config(words), 2)
    _, state = prepare_substage(b, Phase(2, 2), initialise_variables(b), None)
    chosen = SubstageChoice(1, (), {}, 0.0)
    record = Stage1Record(chosen, chosen, 0.0, 0)
    small = next(build_models(b, [(0, Outcome(state, state.vars, SubstageRecord(0)))], record))
    assert small.temperature is None
    grown = adding.add_classes(small, *new_clips[0], new_clips[2])
    told, known = grown.vars.buffers[key], len(small.info.classes)
    tiny.same(told[:known], small.vars.buffers[key])
    assert (np.abs(told[known:]).sum(1) > 0).all()
    assert tiny.differ(told[known], told[known + 1])


@pytest.mark.slow
def test_stand_ins_for_text(model, new_clips):
    """The stand-in of a class that looks like an old one is near that one's vector."""
    info, examples = model.info, model.examples
    n = len(info.classes)
    twin = examples.features[examples.labels == 2]
    both = models.Examples(
        np.concatenate([examples.features, twin]),
        np.append(examples.labels, np.full(len(twin), n)), examples.clips,
    )
    vector = adding.derive_text(info, ["twin"], ["twin"], both)[0]
    cosine = info.text @ vector / np.linalg.norm(info.text, axis=1) / np.linalg.norm(vector)
    assert cosine.argmax() == 2 and cosine[2] > 0.8
    grown = adding.add_classes(model, *new_clips[0])
    assert right(grown, {*new_clips[0][2]}) > 0.8


def test_refusals(model, new_clips):
    audio, video, names = new_clips[0]

    def refused(match, m=model, names=names, text=None, **more):
        with pytest.raises(UserError, match=match):
            adding.add_classes(m, audio, video, names, text, **more)

    known = model.info.classes[0]
    refused(f"the model knows '{known}' already", names=[known] * 12)
    refused(r"has shape \(3,\) but the model's have 14 dimensions", text={names[0]: np.ones(3)})
    refused("11 class names for 12 clips", names=names[1:])
    refused("holds parameters alone", dataclasses.replace(model, examples=None))
    with pytest.raises(UserError, match="no clip of a new class"):
        adding.add_classes(model, [], [], [])
    config = model.info.config.copy_and_resolve_references()
    with config.unlocked():
        config.method = "ncm"
    ncm = dataclasses.replace(model, info=model.info._replace(config=config))
    refused("method=ncm cannot learn more classes", ncm)


@pytest.mark.slow
def test_comparison(model, bigger, new_clips):
    store = open_store(tiny.world()[0])
    old = list(of_store(store))
    audio = [c.audio for c in old] + new_clips[1][0]
    video = [c.video for c in old] + new_clips[1][1]
    names = [store.class_names[n] for n in store.labels] + new_clips[1][2]
    known, labels = np.unique(names, return_inverse=True)
    source = of_arrays(audio, video, class_names=tuple(known), labels=labels)
    cells = [line[40:].split() for line in
             adding.compare_models(model, bigger, source).splitlines()[1:]]
    kinds = dict(zip(model.info.classes, model.kinds, strict=True))
    base = sum(kinds[name] == "base" for name in names[: len(store)])
    assert [int(row[0]) for row in cells] == [base, len(store) - base, 24, 24, 24]
    assert [len(row) for row in cells] == [3, 3, 2, 2, 2]
    predicted = model.predict(audio[: len(store)], video[: len(store)])[0][:, 0]
    hits = {}
    for ours, name in zip(predicted, names[: len(store)], strict=True):
        if kinds[name] == "base":
            hits.setdefault(name, []).append(ours == name)
    assert abs(float(cells[0][1]) - 100 * np.mean([np.mean(h) for h in hits.values()])) < 0.06
    among = bigger.scores(*new_clips[1][:2])[:, -3:].argmax(1)
    hits = among == [bigger.info.classes[-3:].index(name) for name in new_clips[1][2]]
    assert abs(float(cells[4][1]) - 100 * hits.mean()) < 0.06
