"""Random choices of clips: each has a stream of its own."""

from avdiff_jax.data.splits.sampling import cut, draw, shuffle

IDS = [f"clip {i:02}" for i in range(20)]


def test_the_shots_of_a_class_depend_on_seed_draw_and_name():
    """And on nothing else: not on the other classes, nor on the order of the clips."""

    def shots(name="a", seed=0, number=0, **others):
        return tuple(draw({**others, name: IDS}, 5, seed, number)[name])

    assert shots() == shots(b=IDS) == tuple(draw({"a": IDS[::-1]}, 5, 0, 0)["a"])
    assert len({shots(), shots("b"), shots(seed=1), shots(number=1)}) == 4
    assert shots()[:2] == tuple(draw({"a": IDS}, 2, 0, 0)["a"])


def test_a_share_depends_on_seed_purpose_and_name():
    def taken(name="a", seed=0, purpose="test"):
        return tuple(cut({name: IDS}, 0.25, seed, purpose)[0][name])

    assert taken() == taken() and len(taken()) == 5
    assert len({taken(), taken("b"), taken(seed=1), taken(purpose="validation")}) == 4


def test_a_share_is_at_least_one_clip_and_leaves_the_others():
    taken, rest = cut({"a": IDS[:4], "b": IDS}, 0.1, 0, "test")
    assert [len(taken[name]) for name in "ab"] == [1, 2]
    assert all({*taken[name]} | {*rest[name]} == {*ids} and not {*taken[name]} & {*rest[name]}
               for name, ids in (("a", IDS[:4]), ("b", IDS)))


def test_a_shuffle_keeps_every_clip():
    assert shuffle(IDS, 0, "any") != IDS and sorted(shuffle(IDS, 0, "any")) == IDS
