"""Which classes are base and novel, and how many shots, by the clips that there are."""

import pytest

from avdiff_jax.data.splits import stages
from avdiff_jax.errors import UserError
from avdiff_jax.fitting.classes import Supply, choose_classes, choose_split, measure_supply
from tests.data.samples import by_subject, ids, make_store


def clips(**counts):
    """Classes with so many clips, each for itself."""
    return {name: Supply((1,) * count) for name, count in sorted(counts.items())}


def choose(supply, shots=None, novel=None, base=None, seed=0):
    return choose_classes(supply, shots, novel, base, seed)


PLENTY = dict.fromkeys("abcdef", 20)


def test_classes_with_few_clips_are_novel():
    chosen = choose(clips(**PLENTY, ten=10, rare=6, rarer=9))
    assert chosen.novel2 == ["rare", "rarer"] and chosen.shots == 5
    assert sorted(chosen.base1 + chosen.novel1) == [*"abcdef", "ten"]
    assert len(chosen.novel1) == 2 and not chosen.untested and not chosen.notes


@pytest.mark.parametrize("fewest, shots, untested", [
    (9, 5, False), (6, 5, False), (5, 4, False), (3, 2, False), (2, 1, False), (1, 1, True)])
def test_the_rarest_class_decides_the_shots(fewest, shots, untested):
    """A clip of it is left to be tested on, where it has two."""
    chosen = choose(clips(**PLENTY, other=8, rare=fewest))
    assert chosen.shots == shots and chosen.untested == ["rare"] * untested
    begin = f"ONLY {shots} SHOT{'S' * (shots > 1)}, because 'rare' has"
    told = [note for note in chosen.notes if note.startswith(begin)]
    assert bool(told) == (shots < 5)


@pytest.mark.parametrize("rare, told", [
    ({"rain": 1}, "ONLY 1 SHOT, because 'rain' has 1 clip: no novel class (2 in all) is learnt "
     "from more, where without that class there would be 5. Leave that class out of the clips, "
     "or give it more clips."),
    ({"rain": 1, "wind": 2}, "ONLY 1 SHOT, because 'rain' has 1 clip, 'wind' has 2 clips: no "
     "novel class (3 in all) is learnt from more, where without those classes there would be 5. "
     "Leave those classes out of the clips, or give them more clips."),
    ({"wind": 3}, "ONLY 2 SHOTS, because 'wind' has 3 clips: no novel class (2 in all) is learnt "
     "from more, where without that class there would be 5. Leave that class out of the clips, "
     "or give it more clips, or ask for --shots 3, which leaves no clip of wind for the test."),
])
def test_what_a_rare_class_costs_the_others(rare, told):
    chosen = choose(clips(**PLENTY, other=8, **rare))
    assert chosen.notes == (told,)
    if "--shots 3" in told:
        assert choose(clips(**PLENTY, other=8, **rare), 3).untested == ["wind"]


def test_where_every_novel_class_is_rare():
    told = choose(clips(**PLENTY, a1=2, a2=2, a3=2, a4=1)).notes[0]
    assert told.startswith("ONLY 1 SHOT, because 'a1' has 2 clips, 'a2' has 2 clips, 'a3' has 2 cl")
    assert "clips, and 1 more have as few: no novel class (4 in all) is learnt from " in told
    assert "--shots" not in told  # one of them has a single clip


def test_base_classes_may_decide_the_shots():
    """Settings are tried on one, which keeps a clip for that choice and one for the test."""
    supply = clips(**dict.fromkeys("abcdefgh", 6))
    chosen = choose(supply)
    assert chosen.shots == 4 and chosen.notes[1] == (
        f"4 shots, because settings are tried on base classes, which keep a clip for that choice "
        f"and one for the test beside their shots, and no base class has more for it than "
        f"{min(chosen.base1 + chosen.novel1)!r} with 6 clips.")
    with pytest.raises(UserError, match="to try 5 shots on before the test: ask for at most 4, or"):
        choose(supply, 5)
    assert choose(supply, 4).shots == 4


def test_where_no_class_is_rare_some_are_drawn():
    supply = clips(**{f"c{i}": 24 for i in range(10)})
    chosen = choose(supply)
    assert (len(chosen.base1), len(chosen.novel1), len(chosen.novel2)) == (5, 2, 3)
    assert chosen.notes[0] == (
        "All classes have 10 clips or more, so 3 of 10 were drawn to stand as novel: "
        f"{', '.join(chosen.novel2)} (--novel chooses them).")
    assert choose(supply) == chosen
    assert len({tuple(choose(supply, seed=seed).novel2) for seed in range(5)}) > 1


def test_small_sets():
    """Where hardly any class has ten clips, three are enough to be base."""
    chosen = choose(clips(a=8, b=8, c=8, d=8, rare=2))
    assert chosen.novel2 == ["rare"] and chosen.shots == 1
    chosen = choose(clips(a=8, b=8, c=8))
    assert (len(chosen.base1), len(chosen.novel1), len(chosen.novel2)) == (1, 1, 1)
    assert chosen.notes[0].startswith("All classes have fewer than 10 clips, so 1 of 3 were drawn")
    chosen = choose(clips(a=8, b=8, c=10))
    assert chosen.notes[0].startswith("All classes but 'c' have fewer than 10 clips, so 1 of 3 we")


def test_named_classes():
    supply = clips(**PLENTY, rare=2)
    chosen = choose(supply, novel=["A", "rare"])
    assert chosen.novel2 == ["a", "rare"] and "a" not in chosen.base1 + chosen.novel1
    chosen = choose(supply, novel=["a"])
    assert chosen.novel2 == ["a", "rare"]
    assert "Too few clips to be base, so novel too: rare." in chosen.notes
    chosen = choose(supply, base=["a", "b", "c"])
    assert chosen.novel2 == ["d", "e", "f", "rare"]
    chosen = choose(supply, base=["a", "b", "c", "d"], novel=["rare", "e", "f"])
    assert chosen.novel2 == ["e", "f", "rare"]


def test_no_class_is_left_out():
    for supply in (clips(**PLENTY, x=1, y=2), clips(a=3, b=3, c=3), clips(**PLENTY)):
        chosen = choose(supply)
        assert sorted(chosen.base1 + chosen.novel1 + chosen.novel2) == sorted(supply)


@pytest.mark.parametrize("supply, wishes, complaint", [
    (clips(a=2, b=2, c=2), {}, "0 classes to be base ones and 3 to be novel"),
    (clips(a=20, b=20), {}, "2 classes to be base ones and 0 to be novel"),
    (clips(**PLENTY, rare=4), {"shots": 5}, "shots is 5 but class 'rare' has 4 clips: ask for at "),
    (clips(**PLENTY, rare=4), {"shots": 0}, "shots is 0 but"),
    (clips(**PLENTY), {"novel": ["a"], "shots": 20},
     r"no clip of a novel class \(a\) is left to be tested on: ask for at most 15, or add a clip"),
    (clips(a=9, b=9, x=1), {}, r"with 1 shot no clip .*\(x\) is left to be tested on: add a clip"),
    (clips(**PLENTY, x=90), {"novel": ["x"], "shots": 19},
     "no base class .* to try 19 shots on before the test: ask for at most 15, or add clips"),
    (clips(**PLENTY), {"novel": ["z", "aa"]}, r"named 'z', 'aa'.*\(2 of the 2 novel classes asked"),
    (clips(**PLENTY), {"base": ["zz"]}, "no clip has a class named 'zz'"),
    (clips(**PLENTY, rare=2), {"base": ["a", "rare"]}, "'rare' cannot be base with 2 clips"),
    (clips(**PLENTY), {"base": ["a", "b"], "novel": ["b", "c"]}, "'b' is named as base and as n"),
    (clips(**PLENTY), {"base": ["a", "b"], "novel": ["c"]}, r"class 'd' \(3 such\) is named neith"),
    (clips(**PLENTY), {"base": [*"abcdef"]}, "6 classes to be base ones and 0 to be novel"),
    (clips(**PLENTY), {"novel": [*"abcdef"]}, "0 classes to be base ones and 6 to be novel"),
])
def test_what_cannot_be_done(supply, wishes, complaint):
    with pytest.raises(UserError, match=complaint):
        choose(supply, **wishes)


def test_groups_are_units():
    supply = {name: Supply((4, 4, 4)) for name in "abcd"}
    supply |= {"one": Supply((9,)), "two": Supply((2, 7))}
    chosen = choose(supply)
    assert chosen.novel2 == ["one", "two"] and chosen.untested == ["one"]
    assert chosen.shots == 4  # a base class leaves so many beside validation and test
    assert choose(supply, novel=["one", "two"]).novel2 == ["one", "two"]
    with pytest.raises(UserError, match="'two' cannot be base with 9 clips in 2 groups, 3 are"):
        choose(supply, base=["a", "two"])


def test_supply_of_a_store():
    store = make_store([("1", "a", "g"), ("2", "a", "g"), ("3", "a", ""), ("4", "b", "g")])
    assert measure_supply(store, "group") == {"a": Supply((1, 2)), "b": Supply((1,))}
    assert measure_supply(store, "clip") == {"a": Supply((1, 1, 1)), "b": Supply((1,))}


@pytest.mark.parametrize("by", ["group", "clip"])
def test_a_split_of_a_store(by):
    store = make_store(by_subject(n_classes=10))
    split, notes = choose_split(store, by=by)
    assert split["by"] == by and split["shots"] == 5 and len(split["classes"]["novel2"]) == 3
    assert notes and "untested" not in split
    if by == "clip":  # a fifth of 32 clips of each class
        assert len(split["sets"]["test_base"][split["classes"]["base1"][0]]) == 6


def test_a_class_without_clips_is_told_of():
    store = make_store([(f"{name}{i}", name, None) for name in "abcdef" for i in range(12)])
    store.class_names = (*store.class_names, "silent")
    _, notes = choose_split(store)
    assert "No clip gave features, so not among the classes: silent." in notes


def test_a_class_that_is_not_measured():
    counts = {**PLENTY, "x": 4, "y": 1}
    store = make_store([(f"{name}{i}", name, None) for name, count in counts.items()
                        for i in range(count)])
    split, _ = choose_split(store)
    assert split["untested"] == ["y"] and split["shots"] == 1
    for draw in range(3):
        assert split["sets"]["train2_novel"][draw]["y"] == ["y0"]
        assert {*split["sets"]["test_novel"][draw]} == {"x"}
    stage = stages.stage(split, store, 2)
    assert "y" in stage.class_names and len(ids(split["sets"]["test_base"])) == 24
