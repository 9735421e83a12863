"""The stages of training that a split describes."""

import json
from collections import Counter

import numpy as np
import pytest

from avdiff_jax.data.splits import stages
from avdiff_jax.data.splits.sets import STAGE_1
from avdiff_jax.errors import UserError
from tests.data.samples import by_subject, good_split, ids, make_store


def named(members, stage, store):
    """Members as (class name, clip id), which any order of the store leaves alone."""
    return [
        (stage.class_names[label], str(store.clip_ids[clip]))
        for clip, label in zip(members.clips, members.labels, strict=True)
    ]


def test_stages_are_the_sets():
    store, split = make_store(by_subject()), good_split()
    sets, classes = split["sets"], split["classes"]

    def listed(*contents):
        return sorted((name, clip) for part in contents for name in part for clip in part[name])

    one, two = stages.stage(split, store, 1), stages.stage(split, store, 2)
    assert one.class_names == tuple(sorted(classes["base1"] + classes["novel1"]))
    assert set(np.array(one.class_names)[one.is_base]) == set(classes["base1"])
    assert named(one.base, one, store) == listed(sets["train1_base"])
    assert [named(m, one, store) for m in one.novel] == [listed(sets["train1_novel"])]
    assert named(one.eval_base, one, store) == listed(sets["val_base"])
    assert [named(m, one, store) for m in one.eval_novel] == [listed(sets["val_novel"])]

    assert two.class_names == tuple(sorted(name for names in classes.values() for name in names))
    assert set(np.array(two.class_names)[~two.is_base]) == set(classes["novel2"])
    assert named(two.base, two, store) == listed(*(sets[key] for key in STAGE_1))
    assert len(two.base.clips) == split["counts"]["train2_base"]
    assert [named(m, two, store) for m in two.novel] == list(map(listed, sets["train2_novel"]))
    assert named(two.eval_base, two, store) == listed(sets["test_base"])
    assert [named(m, two, store) for m in two.eval_novel] == list(map(listed, sets["test_novel"]))
    assert two.base.clips.dtype == np.int64 and two.base.labels.dtype == np.int32
    with pytest.raises(ValueError, match="stages 1 and 2, not 3"):
        stages.stage(split, store, 3)


@pytest.mark.parametrize("number", [1, 2])
def test_order_of_the_store_changes_no_stage(number):
    split = good_split()
    stores = [make_store(by_subject()), make_store(by_subject(), order=3, class_order=4)]
    one, other = (stages.stage(split, store, number) for store in stores)
    assert one.class_names == other.class_names
    for left, right in zip(_members(one), _members(other), strict=True):
        assert named(left, one, stores[0]) == named(right, other, stores[1])


def _members(stage):
    return [stage.base, *stage.novel, stage.eval_base, *stage.eval_novel]


def test_letter_case_of_a_class_does_not_matter_but_another_class_does():
    store, split = make_store(by_subject()), good_split()
    store.class_names = tuple(name.upper() for name in store.class_names)
    assert stages.stage(split, store, 1).class_names[0].islower()
    clip = next(iter(split["sets"]["train1_base"].values()))[0]
    at = store.clip_ids.tolist().index(clip)
    store.labels[at] = (store.labels[at] + 1) % 8
    with pytest.raises(UserError, match=rf"clip '{clip}' is of class 'CLASS \d' in store 'made_u"):
        stages.stage(split, store, 1)


def test_classes_that_differ_in_case_alone_are_two():
    """In the store and in the split; what a split calls by neither name is refused."""
    store, split = make_store(by_subject()), good_split()
    one, other = split["classes"]["base1"][:2]

    def rename(name, new):
        store.class_names = tuple(new if n == name else n for n in store.class_names)
        text = json.dumps(split).replace(json.dumps(name), json.dumps(new))
        return json.loads(text)

    split = rename(other, one.upper())
    stage = stages.stage(split, store, 1)
    assert {one, one.upper()} <= {*stage.class_names}
    names = np.array(store.class_names)[store.labels[stage.base.clips]]
    assert names.tolist() == [stage.class_names[label] for label in stage.base.labels]
    text = json.dumps(split).replace(json.dumps(one), json.dumps(one.title()))
    with pytest.raises(UserError, match=f"is of class '{one}' in store .* but of '{one.title()}'"):
        stages.stage(json.loads(text), store, 1)


def test_a_store_that_lacks_clips_is_refused():
    split = good_split()
    gone = sorted(ids(split["sets"]["val_base"]))[:5]
    store = make_store([clip for clip in by_subject() if clip[0] not in gone])
    total = split["counts"]["val_base"]
    examples = ", ".join(gone[:3])
    with pytest.raises(UserError, match=rf"'made_up' lacks 5 of {total} clips .*\({examples}, .."):
        stages.stage(split, store, 1)


def test_shuffled_labels_are_a_permutation():
    members = stages.stage(good_split(), make_store(by_subject()), 1).base
    control = stages.shuffle_labels(members, 0)
    np.testing.assert_array_equal(control.clips, members.clips)
    assert control.labels.dtype == np.int32
    assert Counter(control.labels.tolist()) == Counter(members.labels.tolist())
    assert np.mean(control.labels == members.labels) < 0.5  # 4 classes: 1 in 4 by chance
    np.testing.assert_array_equal(stages.shuffle_labels(members, 0).labels, control.labels)
    assert (stages.shuffle_labels(members, 1).labels != control.labels).any()
